"""Laws of the encoders' benchmark: who knows all finds all, who tells nothing apart gets chance, who sees backdrops alone is found out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from benchmarks import encoders, sights
from benchmarks.encoders import (
    bootstrap,
    calibrate,
    chance,
    climb,
    contact_sheet,
    example_of,
    hits,
    judge_laws,
    measure_captions,
    measure_retrieval,
    ranked,
    summarise,
    table,
)
from benchmarks.sights import (
    ALPHAS,
    SWAPPED,
    Condition,
    Ladder,
    Subject,
    blend,
    distinct_scenes,
    look_alikes_only,
    make_conditions,
    make_ladders,
    swapped_backdrop,
    world_of,
)
from starter_recipe.drawings import read_objects
from starter_recipe.world import World

VIEWS, QUERIES = 1, 2
PAINTS = {"dog": (230, 30, 30), "cat": (30, 60, 230), "car": (240, 220, 40), "tree": (120, 20, 160)}


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sights, "QUERIES", QUERIES)


def shape(colour: tuple[int, int, int], corners: int) -> Image.Image:
    """A polygon of one colour on a transparent square."""
    image = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(image).regular_polygon((48, 48, 44), corners, fill=colour)
    return image


@cache
def subjects() -> tuple[Subject, ...]:
    """Four polygons, each with two look-alikes of its colour."""
    return tuple(
        Subject(
            name=f"my {noun}", noun=noun, key=f"noto/shape-{noun}", drawing=shape(colour, 3),
            look_alikes={f"other/{noun}": shape(colour, 5), f"third/{noun}": shape(colour, 8)},
        )
        for noun, colour in PAINTS.items()
    )  # fmt: skip


@cache
def world() -> World:
    """The polygons' world; squares are what they wear."""
    return world_of(subjects(), {f"noto/{icon}": shape((90, 90, 90), 4) for icon in read_objects()["accessories"]}, 0)


@cache
def conditions(seed: int) -> tuple[Condition, ...]:
    return tuple(make_conditions(subjects(), world(), VIEWS, seed))


@cache
def ladders() -> dict[str, list[Ladder]]:
    return make_ladders(subjects(), 0)


@cache
def scenes(seed: int) -> list[tuple[Image.Image, str]]:
    return distinct_scenes(world(), random(seed), 20)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def oracle(condition: Condition) -> Tensor:
    """One number for each owner: what a perfect encoder says."""
    owners = sorted(set(condition.owners))
    return F.one_hot(torch.tensor([owners.index(owner) for owner in condition.owners]), len(owners)).float()


class Constant:
    """Tells nothing apart."""

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        return torch.ones(len(images), 3)

    def embed_prompts(self, prompts: Sequence[str], /) -> Tensor:
        return torch.ones(len(prompts), 3)


class Pixels:
    """Sees one part of a picture: its colours less mid-gray."""

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        self.box = box

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        parts = np.stack([np.asarray(image.crop(self.box), np.float32).ravel() for image in images])
        return F.normalize(torch.from_numpy(parts) - 127.5, dim=-1)


BACKDROP, CENTRE = Pixels((0, 0, 5, 5)), Pixels((28, 28, 36, 36))


class Reciter(Constant):
    """Knows every scene's caption by heart."""

    def __init__(self, scenes: Sequence[tuple[Image.Image, str]]) -> None:
        self.captions = {image.tobytes(): caption for image, caption in scenes}
        self.order = sorted(self.captions.values())

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        return self.embed_prompts([self.captions[image.tobytes()] for image in images])

    def embed_prompts(self, prompts: Sequence[str], /) -> Tensor:
        return F.one_hot(torch.tensor([self.order.index(prompt) for prompt in prompts]), len(self.order)).float()


def share(condition: Condition, embeddings: Tensor) -> float:
    return bootstrap(hits(condition, embeddings), 0)["mean"]


def test_an_oracle_finds_every_subject_in_every_condition() -> None:
    assert {condition.name: share(condition, oracle(condition)) for condition in conditions(0)} == {
        c.name: 1.0 for c in conditions(0)
    }


def test_queries_that_look_like_someone_else_find_nobody() -> None:
    for condition in conditions(0):
        queries = [query for query, _ in condition.trials]
        mistaken = oracle(condition)
        # Everybody in a gallery stays who it is; a query is taken for the first wrong picture there.
        for query, sample_cache in condition.trials:
            mistaken[query] = next(
                mistaken[place] for place in sample_cache if condition.owners[place] != condition.owners[query]
            )
        assert len(set(queries)) == len(queries)
        assert share(condition, mistaken) == 0, condition.name


def test_who_tells_nothing_apart_gets_chance() -> None:
    for condition in conditions(0):
        assert share(condition, Constant().embed(condition.images)) == pytest.approx(chance(condition)), condition.name
        assert chance(condition) == pytest.approx(1 / 3 if condition.name == "look-alikes only" else 1 / 4)


def test_who_sees_the_backdrop_alone_fails_where_it_is_swapped() -> None:
    condition = swapped_backdrop(subjects(), random(1))
    assert share(condition, BACKDROP.embed(condition.images)) < chance(condition) / 2
    assert share(condition, CENTRE.embed(condition.images)) > 0.9


def test_a_swapped_gallery_holds_the_query_elsewhere_and_the_others_right_there() -> None:
    condition = swapped_backdrop(subjects(), random(2))
    corners = [image.crop(BACKDROP.box).tobytes() for image in condition.images]
    for query, (right, *wrong) in condition.trials:
        assert condition.owners[right] == condition.owners[query]
        assert corners[right] != corners[query]
        assert {corners[place] for place in wrong} == {corners[query]}
        assert sorted(condition.owners[place] for place in (query, *wrong)) == sorted(
            subject.name for subject in subjects()
        )


def test_look_alikes_are_a_subjects_own_and_no_other_subject_is_among_them() -> None:
    condition = look_alikes_only(subjects(), random(3), VIEWS)
    for query, sample_cache in condition.trials:
        own = next(subject for subject in subjects() if subject.name == condition.owners[query])
        assert sorted(condition.owners[place] for place in sample_cache) == sorted([own.name, *own.look_alikes] * VIEWS)


def test_no_query_lies_in_its_own_gallery_and_each_subject_asks_alike() -> None:
    for condition in conditions(0):
        assert all(query not in sample_cache for query, sample_cache in condition.trials)
        asked = [condition.owners[query] for query, _ in condition.trials]
        assert {owner: asked.count(owner) for owner in asked} == {subject.name: QUERIES for subject in subjects()}


def test_the_seed_decides_every_picture() -> None:
    first, again, other = ([p.tobytes() for c in draw for p in c.images] for draw in (
        conditions(0), make_conditions(subjects(), world(), VIEWS, 0), conditions(1),
    ))  # fmt: skip
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < len(first) / 20


class Script:
    """A world that says what it is told to."""

    def __init__(self, captions: Sequence[str]) -> None:
        self.captions = iter(captions)

    def compose(self, _: np.random.Generator) -> tuple[Image.Image, str]:
        return Image.new("RGB", (1, 1)), next(self.captions)


def test_no_two_scenes_ask_for_the_same_thing_in_other_words() -> None:
    said = [
        "a photo of a dog",
        "a picture of a dog",
        "an image of a dog",
        "a dog",
        "a cartoon of a dog",
        "a picture of a cat",
    ]
    assert [caption for _, caption in distinct_scenes(Script(said), random(0), 3)] == [said[0], said[4], said[5]]


def test_the_seed_decides_the_scenes() -> None:
    assert [(p.tobytes(), c) for p, c in scenes(4)] == [
        (p.tobytes(), c) for p, c in distinct_scenes(world(), random(4), 20)
    ]
    assert [c for _, c in scenes(4)] != [c for _, c in scenes(5)]
    assert len({c for _, c in scenes(4)}) == 20


def test_captions_by_heart_are_all_found_and_blind_guesses_are_chance() -> None:
    knowing, blind = (measure_captions(judge, scenes(4), 0) for judge in (Reciter(scenes(4)), Constant()))
    assert {rank["mean"] for way in knowing.values() for rank in way.values()} == {1.0}
    for way in blind.values():
        assert [way["rank 1"]["mean"], way["rank 5"]["mean"]] == pytest.approx([1 / 20, 5 / 20])
        assert way["rank 5"]["chance"] == 5 / 20


def test_ranks_count_what_is_better_and_share_ties() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.9, 0.3], [0.7, 0.2, 0.7]], dtype=torch.float64)
    assert ranked(scores, 1) == [0.0, 1.0, 0.5]
    assert ranked(scores, 2) == [0.0, 1.0, 1.0]


def test_intervals_hold_their_mean_and_shrink_with_agreement() -> None:
    for seed in range(20):
        values = random(seed).random(8)
        loose = bootstrap({str(i): [value] for i, value in enumerate(values)}, seed)
        assert loose["low"] < loose["mean"] < loose["high"]
        assert loose["mean"] == pytest.approx(values.mean())
    assert bootstrap({"a": [0.1, 0.3], "b": [0.2, 0.2]}, 0) == pytest.approx({"mean": 0.2, "low": 0.2, "high": 0.2})


def test_a_bootstrap_resamples_subjects_and_not_their_pictures() -> None:
    few, many = (bootstrap({"a": [0.0] * count, "b": [1.0] * count}, 0) for count in (1, 500))
    assert few == many == {"mean": 0.5, "low": 0.0, "high": 1.0}


def test_equal_seeds_give_equal_intervals_and_others_differ() -> None:
    groups = {str(i): [value] for i, value in enumerate(random(7).random(9))}
    assert bootstrap(groups, 1) == bootstrap(groups, 1) != bootstrap(groups, 2)


def test_a_blend_begins_with_one_subject_ends_with_the_other_and_darkens_nothing() -> None:
    red, blue = shape((255, 0, 0), 3), shape((0, 0, 255), 4)
    for alpha, end in ((0.0, red), (1.0, blue)):
        over = [
            Image.alpha_composite(Image.new("RGBA", end.size, "white"), image)
            for image in (blend(red, blue, alpha), end)
        ]
        assert np.abs(np.subtract(*(np.asarray(image, np.int16) for image in over))).max() <= 1
    half = np.asarray(blend(red, Image.new("RGBA", red.size), 0.5))
    assert half[48, 48].tolist() == [255, 0, 0, 128]


def test_a_subjects_blend_ends_as_its_look_alike_and_its_scene_stays() -> None:
    for name in ("subject", "noun"):
        for ladder in ladders()[name]:
            assert len(ladder.images) == len(ALPHAS)
            assert len({image.crop(BACKDROP.box).tobytes() for image in ladder.images}) == 1
            assert len({image.tobytes() for image in ladder.images}) == len(ALPHAS)
    assert all(len({image.tobytes() for image in ladder.images}) == len(ALPHAS) for ladder in ladders()["place"])
    assert all(ladder.subject.removeprefix("my ") in ladder.caption for own in ladders().values() for ladder in own)


def test_what_sees_the_subject_falls_with_it_and_what_sees_nothing_does_not() -> None:
    own = ladders()["noun"]
    starts = {id(ladder): CENTRE.embed(ladder.images[:1])[0] for ladder in own}
    seeing = summarise(climb(CENTRE, own, lambda image, ladder: float(image[0] @ starts[id(ladder)])), 0)
    blind = summarise(climb(Constant(), own, lambda image, _: float(image.sum())), 0)
    assert seeing["every_mean_falls"]
    assert seeing["falling"] > 0.9
    assert seeing["means"][0]["mean"] == pytest.approx(1)
    assert not blind["every_mean_falls"]
    assert blind["falling"] == 0


def test_single_steps_are_counted_and_not_their_average() -> None:
    curves = {"a": [[1.0, 0.9, 0.8, 0.7, 0.6]], "b": [[0.5, 0.6, 0.4, 0.3, 0.2]]}
    assert summarise(curves, 0) | {"means": []} == {
        "means": [],
        "falling": 7 / 8,
        "steps": 8,
        "every_mean_falls": False,
    }


def test_calibration_is_the_real_photos_less_the_other_subjects() -> None:
    a, b = torch.eye(3)[[0, 0]], torch.eye(3)[[1, 1]]
    rows = calibrate({"a": a, "b": b}, {"nothing": torch.eye(3)[[2]]}, 0)
    assert {row: estimate["mean"] for row, estimate in rows.items()} == {
        "real": 1.0, "others": 0.0, "real minus others": 1.0, "nothing": 0.0,
    }  # fmt: skip
    mixed = calibrate({"a": torch.cat([a[:1], b[:1]]), "b": b}, {}, 0)
    assert mixed["real"]["mean"] == pytest.approx(0.5)
    assert mixed["real minus others"]["mean"] == pytest.approx(0.0)


def results(judge: Any, captions: Any) -> dict[str, Any]:
    encoders = {"identity": judge, "clip": judge}
    rows = {
        name: {"mean": 0.5, "low": 0.4, "high": 0.6}
        for name in ("real", "others", "real minus others", "noise", "plain colours")
    }
    return {
        "captions": {"held-out subjects": captions},
        "retrieval": measure_retrieval(encoders, conditions(0), 0),
        "calibration": {"identity": rows, "clip": rows},
        "sensitivity": {"blend": summarise({"a": [[0.5, 0.4, 0.3, 0.2, 0.1]]}, 0)},
    }


def test_verdicts_tell_a_backdrop_from_a_subject() -> None:
    laws = judge_laws(results(BACKDROP, measure_captions(Reciter(scenes(4)), scenes(4), 0)))
    assert laws["captions of held-out subjects are found above chance, both ways"]
    assert not laws[f"identity finds the subject above chance: {SWAPPED}"]
    assert not laws["clip goes by the subject, not by the backdrop: more than half of the swaps are found"]
    assert laws["identity holds photos of one subject nearer than photos of two"]
    assert not laws["identity holds noise farther from a subject than another subject"]
    assert laws["falls at every step of the blend on average: blend"]
    blind = judge_laws(results(Constant(), measure_captions(Constant(), scenes(4), 0)))
    assert not any(holds for law, holds in blind.items() if "above chance" in law)


def test_a_table_is_markdown_and_the_sheet_has_a_row_for_each_test() -> None:
    assert table("T", ["a", "b"], [["1", "2"]]).strip().splitlines() == [
        "### T",
        "",
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
    ]
    rows = [example_of(condition, 0) for condition in conditions(0)]
    assert all(title.startswith(condition.name) for (title, _), condition in zip(rows, conditions(0), strict=True))
    assert contact_sheet(rows).size == (7 * 128, len(rows) * 144)


def test_numbers_are_json_and_missing_drawings_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json.dump(measure_retrieval({"identity": Constant()}, conditions(0), 0), io.StringIO())
    monkeypatch.setattr(encoders, "read_identity_encoder", lambda _: Constant())
    monkeypatch.setattr(encoders, "read_clip", lambda _: Constant())
    monkeypatch.setattr(
        sys,
        "argv",
        ["encoders.py", "--work", str(tmp_path), "--clip", "c", "--identity", "i", "--out", str(tmp_path / "o")],
    )
    with pytest.raises(SystemExit, match=r"node_modules is missing: run `python -m starter_recipe collect"):
        encoders.main()
    assert not (tmp_path / "o").exists()
