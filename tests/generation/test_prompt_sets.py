"""Laws of the prompts that the starter is measured on: the paper's proportions, no prompt twice, only words that the base has heard."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mascot.generation.prompt_sets import (
    CONTEXTS,
    KNOBS_PROMPT,
    PREVIEWS,
    PROPERTIES,
    SHARED_PLACES,
    STARTER,
    STARTER_VALIDATION,
    PromptSet,
)
from starter_recipe.drawings import read_objects, wanted_icons
from starter_recipe.materials import MATERIALS
from starter_recipe.places import PLACES
from starter_recipe.world import ALIVE, PATTERNS, TINTS, Figure, Look, World

OBJECTS = read_objects()
SUITES = {"starter": STARTER, "validation": STARTER_VALIDATION}
LISTS = {(name, live): suite.for_subject(live=live) for name, suite in SUITES.items() for live in (False, True)}
SUBJECT = "{subject}"
ASKED = re.compile(
    rf"a (?P<property>{'|'.join([*TINTS, *MATERIALS])}) {{subject}}"
    rf"|a {{subject}} (?P<accessory>wearing .+|holding .+)"
    rf"|a {{subject}} (?P<place>{'|'.join(PLACES)}|on an? (({'|'.join(PATTERNS)}) \w+ and )?\w+ background|on an? \w+ rug)"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The recipe's world over stand-ins for its drawings: words do not depend on pixels, and painting takes time."""
    path = tmp_path_factory.mktemp("work") / "drawings.npz"
    empty = np.zeros((2, 2, 4), np.uint8)
    np.savez(path, **{f"{art}/{icon}": empty for art in OBJECTS["arts"] for icon in sorted(wanted_icons())})  # pyright: ignore[reportArgumentType]
    made = World(path, side=8)
    made.backdrops |= {place: [Image.new("RGB", (8, 8))] for place in PLACES}
    return made


def asked(prompts: tuple[str, ...], kind: str) -> list[str]:
    """The properties, accessories or places of prompts, each of which asks for one thing."""
    matches = [ASKED.fullmatch(prompt) for prompt in prompts]
    assert [prompt for prompt, match in zip(prompts, matches, strict=True) if match is None] == []
    return [match[kind] for match in matches if match is not None and match[kind]]


@pytest.mark.parametrize(
    ("name", "live", "places", "accessories", "properties"),
    [
        ("starter", False, 20, 0, 5),
        ("starter", True, 10, 10, 5),
        ("validation", False, 8, 0, 2),
        ("validation", True, 4, 4, 2),
    ],
)
def test_proportions_are_the_paper_s(name: str, live: bool, places: int, accessories: int, properties: int) -> None:  # noqa: FBT001
    """Things: 20 places and 5 properties; live subjects: 10 places, 10 accessories, 5 properties (Ruiz et al. 2023, supplement)."""
    counts = {kind: len(asked(LISTS[name, live], kind)) for kind in ("place", "accessory", "property")}
    assert counts == {"place": places, "accessory": accessories, "property": properties}
    assert len(LISTS[name, live]) == places + accessories + properties


@pytest.mark.parametrize("key", LISTS, ids=str)
def test_no_prompt_stands_twice(key: tuple[str, bool]) -> None:
    """Each names its subject once, asks for something else than all others, and is written as training wrote."""
    prompts = LISTS[key]
    assert [prompt for prompt in prompts if prompt.count("{") != 1 or prompt.count(SUBJECT) != 1] == []
    assert len(set(prompts)) == len(prompts)
    assert [prompt for prompt in prompts if re.search(r"\ba [aeiou]|\ban [^aeiou]|[^a-z {}]", prompt)] == []


def test_all_subjects_share_what_any_subject_can_do() -> None:
    """Shared places and properties are asked of things and of live subjects alike."""
    assert {*SHARED_PLACES, *PROPERTIES} == set(STARTER.things) & set(STARTER.live)


@pytest.mark.parametrize("kind", ["place", "accessory", "property"])
def test_what_is_chosen_on_is_not_reported(kind: str) -> None:
    """No prompt, place, accessory or property of the validation is one of the 50's."""
    reported, chosen = (
        {thing for prompts in (suite.things, suite.live) for thing in asked(prompts, kind)} for suite in SUITES.values()
    )
    assert reported
    assert chosen
    assert not reported & chosen


def test_every_word_is_one_that_training_said(world: World) -> None:
    """Words of the prompts are words of 2,000 captions; validation and the report's contexts are no exception."""
    heard = {word for _, caption in islice(world.stream([1]), 2000) for word in caption.split()}
    prompts = [prompt for prompts in LISTS.values() for prompt in prompts]
    shown = [*PREVIEWS, KNOBS_PROMPT, *(prompt for prompts in CONTEXTS.values() for prompt in prompts)]
    words = {word for prompt in (*prompts, *shown) for word in prompt.split()} - {SUBJECT, "{class}"}
    assert words - heard == set()


def test_accessories_are_worn_in_training(world: World) -> None:
    """What a live subject is asked to wear or hold, colour and all, an animal of the world wears or holds in just these words."""
    rng, image = np.random.default_rng(0), Image.new("RGB", (8, 8))
    dog = Figure("dog", Look("noto/dog"), "a dog")
    assert dog.noun in ALIVE
    seen = {world.put_accessory(image, rng, dog).removeprefix("a dog ") for _ in range(3000)}
    wanted = {thing for suite in SUITES.values() for thing in asked(suite.live, "accessory")}
    assert wanted - seen == set()


def test_backgrounds_and_rugs_are_painted_in_training(world: World) -> None:
    """Places that the prompts name are places of the world, or backgrounds and rugs in colours that it paints."""
    rng = np.random.default_rng(0)
    painted = {place for _ in range(1500) for place in [world.backdrop(rng, 1.0)[1]] if "checkered" not in place}
    wanted = {thing for prompts in LISTS.values() for thing in asked(prompts, "place") if "checkered" not in thing}
    assert wanted - painted == set()


def test_a_suite_knows_who_is_alive() -> None:
    suite = PromptSet(things=("a {subject} in space",), live=("a {subject} wearing a crown",))
    assert suite.for_subject(live=True) == ("a {subject} wearing a crown",)
    assert suite.for_subject(live=False) == ("a {subject} in space",)
