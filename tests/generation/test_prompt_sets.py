"""Laws of the starter's prompts: the paper's proportions, and only words of its captions."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mascot.generation.prompts.prompt_sets import (
    CONTEXTS,
    KNOBS_PROMPT,
    PREVIEWS,
    PROPERTIES,
    SHARED_PLACES,
    STARTER,
    STARTER_VALIDATION,
    PromptSet,
)
from starter_training.drawings.objects import read_objects, wanted_icons
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.caption_words import ALIVE, PATTERNS, TINTS
from starter_training.scenes.scene_grammar import Figure, paste_with_accessory, stream
from starter_training.scenes.textures import MATERIALS
from starter_training.scenes.world import Look, World

OBJECTS = read_objects()
SUITES = {"starter": STARTER, "validation": STARTER_VALIDATION}
LISTS = {(name, live): suite.for_subject(live=live) for name, suite in SUITES.items() for live in (False, True)}
SUBJECT = "{subject}"
PROMPT = re.compile(
    rf"a (?P<property>{'|'.join([*TINTS, *MATERIALS])}) {{subject}}"
    rf"|a {{subject}} (?P<accessory>wearing .+|holding .+)"
    rf"|a {{subject}} (?P<place>{'|'.join(PLACES)}"
    rf"|on an? (({'|'.join(PATTERNS)}) \w+ and )?\w+ background|on an? \w+ rug)"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world with empty drawings: captions do not depend on pixels, and painting takes time."""
    path = tmp_path_factory.mktemp("work") / "drawings.npz"
    empty = np.zeros((2, 2, 4), np.uint8)
    np.savez(path, **{f"{art}/{icon}": empty for art in OBJECTS["arts"] for icon in sorted(wanted_icons())})  # pyright: ignore[reportArgumentType]
    made = World(path, side=8)
    made.backdrops |= {place: [Image.new("RGB", (8, 8))] for place in PLACES}
    return made


def named_in(prompts: tuple[str, ...], kind: str) -> list[str]:
    """The properties, accessories or places that prompts name; each prompt names one."""
    matches = [PROMPT.fullmatch(prompt) for prompt in prompts]
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
    """The proportions are those of the supplement of Ruiz et al. 2023."""
    counts = {kind: len(named_in(LISTS[name, live], kind)) for kind in ("place", "accessory", "property")}
    assert counts == {"place": places, "accessory": accessories, "property": properties}
    assert len(LISTS[name, live]) == places + accessories + properties


@pytest.mark.parametrize("key", LISTS, ids=str)
def test_no_prompt_occurs_twice(key: tuple[str, bool]) -> None:
    """Each names its subject once, differs from all others, and is spelled as captions are."""
    prompts = LISTS[key]
    assert [prompt for prompt in prompts if prompt.count("{") != 1 or prompt.count(SUBJECT) != 1] == []
    assert len(set(prompts)) == len(prompts)
    assert [prompt for prompt in prompts if re.search(r"\ba [aeiou]|\ban [^aeiou]|[^a-z {}]", prompt)] == []


def test_all_subjects_share_places_and_properties() -> None:
    """Objects and live subjects have the same shared places and properties."""
    assert {*SHARED_PLACES, *PROPERTIES} == set(STARTER.objects) & set(STARTER.live)


@pytest.mark.parametrize("kind", ["place", "accessory", "property"])
def test_validation_prompts_are_not_report_prompts(kind: str) -> None:
    """No place, accessory or property of the validation prompts is one of the 50's."""
    reported, chosen = (
        {thing for prompts in (suite.objects, suite.live) for thing in named_in(prompts, kind)}
        for suite in SUITES.values()
    )
    assert reported
    assert chosen
    assert not reported & chosen


def test_every_word_occurs_in_training_captions(world: World) -> None:
    """Words of all prompts, contexts included, occur in 2,000 captions."""
    known = {word for _, caption in islice(stream(world, [1]), 2000) for word in caption.split()}
    prompts = [prompt for prompts in LISTS.values() for prompt in prompts]
    shown = [*PREVIEWS, KNOBS_PROMPT, *(prompt for prompts in CONTEXTS.values() for prompt in prompts)]
    words = {word for prompt in (*prompts, *shown) for word in prompt.split()} - {SUBJECT, "{class}"}
    assert words - known == set()


def test_accessories_occur_in_training_images(world: World) -> None:
    """An animal of the world wears or holds each accessory, named in the same words."""
    rng, image = np.random.default_rng(0), Image.new("RGB", (8, 8))
    dog = Figure("dog", Look("noto/dog"), "a dog")
    assert dog.noun in ALIVE
    seen = {paste_with_accessory(world, image, rng, dog).removeprefix("a dog ") for _ in range(3000)}
    wanted = {thing for suite in SUITES.values() for thing in named_in(suite.live, "accessory")}
    assert wanted - seen == set()


def test_backgrounds_and_rugs_occur_in_training_images(world: World) -> None:
    """The prompts' places are places of the world, or backgrounds and rugs in its colors."""
    rng = np.random.default_rng(0)
    painted = {place for _ in range(1500) for place in [world.backdrop(rng, 1.0)[1]] if "checkered" not in place}
    wanted = {thing for prompts in LISTS.values() for thing in named_in(prompts, "place") if "checkered" not in thing}
    assert wanted - painted == set()


def test_live_subjects_have_their_own_prompts() -> None:
    suite = PromptSet(objects=("a {subject} in space",), live=("a {subject} wearing a crown",))
    assert suite.for_subject(live=True) == ("a {subject} wearing a crown",)
    assert suite.for_subject(live=False) == ("a {subject} in space",)
