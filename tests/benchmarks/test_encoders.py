"""Laws of the encoders' benchmark: perfect encoders find all, constant encoders get chance."""

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

from benchmarks import encoder_test_images, encoders
from benchmarks.encoder_scores import (
    bootstrap,
    calibrate,
    chance,
    check_laws,
    hits,
    measure_captions,
    measure_retrieval,
    ranked,
    score_ladders,
    summarize,
)
from benchmarks.encoder_tables import contact_sheet, example_of, table
from benchmarks.encoder_test_images import (
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
from starter_training.drawings.objects import read_objects
from starter_training.scenes.world import World

VIEWS, QUERIES = 1, 2
PAINTS = {"dog": (230, 30, 30), "cat": (30, 60, 230), "car": (240, 220, 40), "tree": (120, 20, 160)}


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_test_images, "QUERIES", QUERIES)


def shape(color: tuple[int, int, int], corners: int) -> Image.Image:
    """A polygon of one color on a transparent square."""
    image = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(image).regular_polygon((48, 48, 44), corners, fill=color)
    return image


@cache
def subjects() -> tuple[Subject, ...]:
    """Four polygons, each with two look-alikes of its color."""
    return tuple(
        Subject(
            name=f"my {noun}",
            noun=noun,
            key=f"noto/shape-{noun}",
            drawing=shape(color, 3),
            look_alikes={f"other/{noun}": shape(color, 5), f"third/{noun}": shape(color, 8)},
        )
        for noun, color in PAINTS.items()
    )


@cache
def world() -> World:
    """The polygons' world; their accessories are squares."""
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
    """The embeddings of a perfect encoder: one direction for each owner."""
    owners = sorted(set(condition.owners))
    return F.one_hot(torch.tensor([owners.index(owner) for owner in condition.owners]), len(owners)).float()


class Constant:
    """An encoder that embeds everything alike."""

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        return torch.ones(len(images), 3)

    def embed_prompts(self, prompts: Sequence[str], /) -> Tensor:
        return torch.ones(len(prompts), 3)


class Pixels:
    """An encoder that reads the pixels of one part of an image."""

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        self.box = box

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        parts = np.stack([np.asarray(image.crop(self.box), np.float32).ravel() for image in images])
        return F.normalize(torch.from_numpy(parts) - 127.5, dim=-1)


BACKDROP, CENTER = Pixels((0, 0, 5, 5)), Pixels((28, 28, 36, 36))


class Memory(Constant):
    """An encoder that has memorized every scene's caption."""

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


def test_queries_that_look_like_another_subject_find_nothing() -> None:
    for condition in conditions(0):
        queries = [query for query, _ in condition.trials]
        mistaken = oracle(condition)
        # Gallery images keep their embeddings; a query gets that of the first wrong image there.
        for query, gallery in condition.trials:
            mistaken[query] = next(
                mistaken[index] for index in gallery if condition.owners[index] != condition.owners[query]
            )
        assert len(set(queries)) == len(queries)
        assert share(condition, mistaken) == 0, condition.name


def test_an_encoder_that_distinguishes_nothing_gets_chance() -> None:
    for condition in conditions(0):
        assert share(condition, Constant().embed(condition.images)) == pytest.approx(chance(condition)), condition.name
        assert chance(condition) == pytest.approx(1 / 3 if condition.name == "look-alikes only" else 1 / 4)


def test_an_encoder_of_the_backdrop_alone_fails_where_it_is_swapped() -> None:
    condition = swapped_backdrop(subjects(), random(1))
    assert share(condition, BACKDROP.embed(condition.images)) < chance(condition) / 2
    assert share(condition, CENTER.embed(condition.images)) > 0.9


def test_a_swapped_gallery_has_the_subject_on_another_backdrop_and_the_others_on_the_querys() -> None:
    condition = swapped_backdrop(subjects(), random(2))
    corners = [image.crop(BACKDROP.box).tobytes() for image in condition.images]
    for query, (right, *wrong) in condition.trials:
        assert condition.owners[right] == condition.owners[query]
        assert corners[right] != corners[query]
        assert {corners[index] for index in wrong} == {corners[query]}
        assert sorted(condition.owners[index] for index in (query, *wrong)) == sorted(
            subject.name for subject in subjects()
        )


def test_look_alikes_are_a_subjects_own_and_no_other_subject_is_among_them() -> None:
    condition = look_alikes_only(subjects(), random(3), VIEWS)
    for query, gallery in condition.trials:
        own = next(subject for subject in subjects() if subject.name == condition.owners[query])
        assert sorted(condition.owners[index] for index in gallery) == sorted([own.name, *own.look_alikes] * VIEWS)


def test_no_query_is_in_its_own_gallery_and_each_subject_has_as_many() -> None:
    for condition in conditions(0):
        assert all(query not in gallery for query, gallery in condition.trials)
        owners = [condition.owners[query] for query, _ in condition.trials]
        assert {owner: owners.count(owner) for owner in owners} == {subject.name: QUERIES for subject in subjects()}


def test_the_seed_decides_every_image() -> None:
    sets = (conditions(0), make_conditions(subjects(), world(), VIEWS, 0), conditions(1))
    first, again, other = ([image.tobytes() for one in conditions for image in one.images] for conditions in sets)
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) < len(first) / 20


def test_no_two_scenes_have_the_same_content_in_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [
        "a photo of a dog",
        "a picture of a dog",
        "an image of a dog",
        "a dog",
        "a cartoon of a dog",
        "a picture of a cat",
    ]
    composed = iter(captions)
    monkeypatch.setattr(encoder_test_images, "compose", lambda _world, _rng: (Image.new("RGB", (1, 1)), next(composed)))
    found = [caption for _, caption in distinct_scenes(world(), random(0), 3)]
    assert found == [captions[0], captions[4], captions[5]]


def test_the_seed_decides_the_scenes() -> None:
    assert [(p.tobytes(), c) for p, c in scenes(4)] == [
        (p.tobytes(), c) for p, c in distinct_scenes(world(), random(4), 20)
    ]
    assert [c for _, c in scenes(4)] != [c for _, c in scenes(5)]
    assert len({c for _, c in scenes(4)}) == 20


def test_memorized_captions_are_all_found_and_constant_embeddings_get_chance() -> None:
    memorized, constant = (measure_captions(encoder, scenes(4), 0) for encoder in (Memory(scenes(4)), Constant()))
    assert {rank["mean"] for way in memorized.values() for rank in way.values()} == {1.0}
    for way in constant.values():
        assert [way["rank 1"]["mean"], way["rank 5"]["mean"]] == pytest.approx([1 / 20, 5 / 20])
        assert way["rank 5"]["chance"] == 5 / 20


def test_ranks_count_what_is_better_and_share_ties() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.9, 0.3], [0.7, 0.2, 0.7]], dtype=torch.float64)
    assert ranked(scores, 1) == [0.0, 1.0, 0.5]
    assert ranked(scores, 2) == [0.0, 1.0, 1.0]


def test_intervals_contain_their_mean_and_shrink_with_agreement() -> None:
    for seed in range(20):
        values = random(seed).random(8)
        loose = bootstrap({str(i): [value] for i, value in enumerate(values)}, seed)
        assert loose["low"] < loose["mean"] < loose["high"]
        assert loose["mean"] == pytest.approx(values.mean())
    assert bootstrap({"a": [0.1, 0.3], "b": [0.2, 0.2]}, 0) == pytest.approx({"mean": 0.2, "low": 0.2, "high": 0.2})


def test_a_bootstrap_resamples_subjects_and_not_their_images() -> None:
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


def test_scores_fall_with_the_subject_only_for_an_encoder_that_reads_it() -> None:
    own = ladders()["noun"]
    starts = {id(ladder): CENTER.embed(ladder.images[:1])[0] for ladder in own}
    reading = summarize(score_ladders(CENTER, own, lambda image, ladder: float(image[0] @ starts[id(ladder)])), 0)
    blind = summarize(score_ladders(Constant(), own, lambda image, _: float(image.sum())), 0)
    assert reading["every_mean_falls"]
    assert reading["falling"] > 0.9
    assert reading["means"][0]["mean"] == pytest.approx(1)
    assert not blind["every_mean_falls"]
    assert blind["falling"] == 0


def test_single_steps_are_counted_and_not_their_average() -> None:
    curves = {"a": [[1.0, 0.9, 0.8, 0.7, 0.6]], "b": [[0.5, 0.6, 0.4, 0.3, 0.2]]}
    assert summarize(curves, 0) | {"means": []} == {
        "means": [],
        "falling": 7 / 8,
        "steps": 8,
        "every_mean_falls": False,
    }


def test_calibration_is_the_real_photos_less_the_other_subjects() -> None:
    a, b = torch.eye(3)[[0, 0]], torch.eye(3)[[1, 1]]
    rows = calibrate({"a": a, "b": b}, {"nothing": torch.eye(3)[[2]]}, 0)
    means = {row: estimate["mean"] for row, estimate in rows.items()}
    assert means == {"real": 1.0, "others": 0.0, "real minus others": 1.0, "nothing": 0.0}
    mixed = calibrate({"a": torch.cat([a[:1], b[:1]]), "b": b}, {}, 0)
    assert mixed["real"]["mean"] == pytest.approx(0.5)
    assert mixed["real minus others"]["mean"] == pytest.approx(0.0)


def results(encoder: Any, captions: Any) -> dict[str, Any]:
    encoders = {"identity": encoder, "clip": encoder}
    rows = {
        name: {"mean": 0.5, "low": 0.4, "high": 0.6}
        for name in ("real", "others", "real minus others", "noise", "plain colors")
    }
    return {
        "captions": {"held-out subjects": captions},
        "retrieval": measure_retrieval(encoders, conditions(0), 0),
        "calibration": {"identity": rows, "clip": rows},
        "sensitivity": {"blend": summarize({"a": [[0.5, 0.4, 0.3, 0.2, 0.1]]}, 0)},
    }


def test_verdicts_distinguish_a_backdrop_from_a_subject() -> None:
    laws = check_laws(results(BACKDROP, measure_captions(Memory(scenes(4)), scenes(4), 0)))
    assert laws["captions of held-out subjects are found above chance, both ways"]
    assert not laws[f"identity finds the subject above chance: {SWAPPED}"]
    assert not laws["clip follows the subject, not the backdrop: more than half of the swaps are found"]
    assert laws["identity places photos of one subject nearer than photos of two"]
    assert not laws["identity places noise farther from a subject than another subject"]
    assert laws["falls at every step of the blend on average: blend"]
    blind = check_laws(results(Constant(), measure_captions(Constant(), scenes(4), 0)))
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
    with pytest.raises(SystemExit, match=r"node_modules is missing: run `python -m starter_training collect"):
        encoders.main()
    assert not (tmp_path / "o").exists()
