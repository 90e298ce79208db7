"""Laws of measuring a base: composed scenes are the ceiling, shuffled prompts the floor, equal seeds equal numbers, mistakes refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks import base as benchmark
from benchmarks import exams
from benchmarks.base import COMPOSED, Column, Judges, Key, Measured, Rows, examine, recall, write_key
from benchmarks.exams import KINDS, Exam, choose, write_exam
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from starter_recipe import world as worlds
from starter_recipe.drawings import read_objects
from starter_recipe.materials import FILTERS, MATERIALS
from starter_recipe.places import COLOURS, PLACES
from starter_recipe.world import ALIVE, PLURALS, TINTS, World

EACH, COUNT, AMONG = 6, 40, 20
SETS = {"drawn": 1.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world's own words, over discs of colour in place of its drawings and one picture in place of many of a place."""
    objects = read_objects()
    icons = {icon for noun in objects["nouns"].values() for kind in noun.values() for icon in kind} | set(
        objects["accessories"]
    )
    path = tmp_path_factory.mktemp("world") / "drawings.npz"
    np.savez(path, **{f"{art}/{icon}": disc(f"{art}{icon}") for art in ("twemoji", "noto") for icon in sorted(icons)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "BACKDROPS_PER_PLACE", 1)
        yield World(path)


def disc(key: str) -> np.ndarray:
    """A disc of a colour that its name decides, RGBA."""
    rows, columns = np.mgrid[-1:1:24j, -1:1:24j]
    colour = hashlib.sha256(key.encode()).digest()[:3]
    covered = ((rows**2 + columns**2) < 1).astype(np.uint8) * 255
    return np.dstack([*(np.full_like(covered, value) for value in colour), covered])


@pytest.fixture(scope="module")
def exam(world: World) -> Exam:
    return write_exam(world, each=EACH, count=COUNT, seed=0, among=AMONG)


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((3, 3), Image.Resampling.BOX), np.float32)).flatten() - 128


class Eye:
    """A sensible encoder: 27 values of a picture, or of the picture that a prompt describes, where it remembers one."""

    def __init__(self, exam: Exam) -> None:
        asked = [*(scene for scenes in exam.kinds.values() for scene in scenes), *exam.retrieval]
        self.described = {scene.prompt: pixels_of(scene.image) for scene in asked}
        self.seen = 0

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        self.seen += len(images)
        return F.normalize(torch.stack([pixels_of(image) for image in images]), dim=-1)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        unknown = [
            torch.from_numpy(np.frombuffer(hashlib.sha256(prompt.encode()).digest()[:27], np.uint8).copy()).float()
            for prompt in prompts
        ]
        rows = [self.described.get(prompt, other - 128) for prompt, other in zip(prompts, unknown, strict=True)]
        return F.normalize(torch.stack(rows), dim=-1)

    def describe(self) -> str:
        return "an eye"


@pytest.fixture(scope="module")
def encoders(exam: Exam) -> Judges:
    eye = Eye(exam)
    return Judges(clip=eye, identity=eye)


@pytest.fixture(scope="module")
def key(exam: Exam, encoders: Judges) -> Key:
    return write_key(exam, encoders)


@pytest.fixture(scope="module")
def composed(exam: Exam, key: Key, encoders: Judges) -> Column:
    return examine(COMPOSED, recall, exam, key, encoders, guidance=1.0, sets=SETS)


def value(rows: Rows, asked: str, measure: str) -> float:
    return next(cell.value for (_, kind, name), cell in rows.items() if (kind, name) == (asked, measure))


class Oracle:
    """Draws what the world composed for a picture's prompt and seed."""

    def __init__(self, exam: Exam) -> None:
        asked = [*(scene for scenes in exam.kinds.values() for scene in scenes), *exam.retrieval, *exam.whole]
        self.known = {ImageRequest(scene.prompt, scene.seed): scene.image for scene in asked}
        assert len(self.known) == len(asked), "each picture has a seed of its own"
        self.knobs: list[Knobs] = []

    def draw(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        self.knobs.append(knobs)
        yield from (self.known[request] for request in requests)


def words_of(world: World) -> set[str]:
    """Every word that a caption of the world can have."""
    phrases = [
        *world.nouns,
        *(PLURALS.get(noun, noun + "s") for noun in world.nouns),
        *PLACES,
        *FILTERS,
        *TINTS,
        *COLOURS,
        *MATERIALS,
    ]
    phrases += [
        *world.arts.values(),
        *(words for words, _, _ in world.accessories),
        *(who.name for n in world.nouns for who in world.instances[n]),
    ]
    phrases.append("a an of photo on background wearing holding upside down lying on its side small big two next to")
    return {word for phrase in phrases for word in phrase.split()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_exactly_as_many_different_prompts_as_wanted_all_of_the_worlds_words(
    world: World, kind: str
) -> None:
    scenes = choose(world, kind, 24, seed=3)
    assert len({scene.prompt for scene in scenes}) == len(scenes) == 24
    assert {word for scene in scenes for word in scene.prompt.split()} <= words_of(world)
    assert all(set(scene.nouns) <= set(world.nouns) for scene in scenes)
    assert {scene.image.size for scene in scenes} == {(world.side, world.side)}


def test_a_prompt_names_what_is_right_about_its_picture(world: World) -> None:
    for kind in KINDS:
        for scene in choose(world, kind, 24, seed=4):
            assert all(noun in scene.prompt or PLURALS.get(noun, noun + "s") in scene.prompt for noun in scene.nouns), (
                scene.prompt
            )
            assert scene.place in scene.prompt
    for scene in choose(world, "names", 24, seed=4):
        assert world.instances[scene.nouns[0]][scene.individual].name in scene.prompt.split()
    assert all(scene.nouns[0] in ALIVE for scene in choose(world, "accessories", 24, seed=4))
    assert all(
        " wearing " in scene.prompt or " holding " in scene.prompt for scene in choose(world, "accessories", 24, seed=4)
    )


def test_more_prompts_than_there_are_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "PATIENCE", 2)
    with pytest.raises(
        UserError, match=f"only {len(world.nouns)} different prompts; give --each {len(world.nouns)} or fewer"
    ):
        choose(world, "plain", len(world.nouns) + 1, seed=0)


def test_equal_seeds_give_equal_exams_and_other_seeds_others(world: World, exam: Exam) -> None:
    again, other = (write_exam(world, each=EACH, count=COUNT, seed=seed, among=AMONG) for seed in (0, 1))
    assert contents(again) == contents(exam)
    assert all(one != two for one, two in zip(contents(other), contents(exam), strict=True))


def contents(exam: Exam) -> list[Any]:
    scenes = [scene for asked in (*exam.kinds.values(), exam.retrieval, exam.whole) for scene in asked]
    return [
        [(scene.prompt, scene.seed, scene.image.tobytes()) for scene in scenes],
        [image.tobytes() for image in exam.fresh],
        [image.tobytes() for who in exam.likenesses.values() for images in who for image in images],
    ]


def test_the_two_sets_share_no_picture_and_retrieval_no_prompt(exam: Exam) -> None:
    assert not {scene.image.tobytes() for scene in exam.whole} & {image.tobytes() for image in exam.fresh}
    assert len({scene.prompt for scene in exam.retrieval}) == AMONG


def test_an_oracle_reaches_the_ceiling(exam: Exam, key: Key, encoders: Judges, composed: Column) -> None:
    oracle: Any = Oracle(exam)
    column = examine("oracle", benchmark.drawn_by(oracle, 7), exam, key, encoders, guidance=5.0, sets=SETS)
    assert column.rows == composed.rows
    assert {(knobs.steps, knobs.guidance) for knobs in oracle.knobs} == {(7, 5.0), (7, 1.0)}
    assert value(column.rows, "plain", "CLIP-T") == pytest.approx(1)
    assert value(column.rows, f"among {AMONG}", "rank 1") == 1


def test_each_picture_is_embedded_once_by_each_encoder(exam: Exam, key: Key) -> None:
    clip, identity = Eye(exam), Eye(exam)
    examine("x", recall, exam, key, Judges(clip=clip, identity=identity), guidance=1.0, sets=SETS)
    assert (clip.seen, identity.seen) == (len(KINDS) * EACH + AMONG + COUNT, len(KINDS) * EACH + COUNT)


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_prompts_are_the_floor(composed: Column, kind: str) -> None:
    assert value(composed.rows, kind, "CLIP-T, shuffled") < value(composed.rows, kind, "CLIP-T") - 0.1


def test_a_right_individual_is_liker_than_others(world: World, exam: Exam, key: Key) -> None:
    scene = exam.kinds["names"][0]
    likenesses_IMD = key.likenesses[scene.nouns[0]]
    assert likenesses_IMD.shape[:2] == (len(world.instances[scene.nouns[0]]), exams.LIKENESSES)
    one, other = torch.eye(27)[:2]
    mine = torch.stack([other.expand(4, 27), one.expand(4, 27), other.expand(4, 27)])
    assert [benchmark.likeness_margin(one, mine, right) for right in (1, 0)] == pytest.approx([1, -0.5])


def test_what_a_picture_shows_is_named(exam: Exam, key: Key, encoders: Judges) -> None:
    """An encoder that reads nouns and places perfectly names all of them; one picture for all names at most its own."""
    scenes = exam.kinds["places"]
    nouns = torch.stack([key.nouns_ND[exam.nouns.index(scene.nouns[0])] for scene in scenes])
    seen = benchmark.Embedded(clip_BD=nouns, identity_BD=nouns)
    assert benchmark.mark_kind(exam, key, "places", seen)["noun named right"] == [1] * EACH
    places = torch.stack([key.places_BND[i, list(PLACES).index(scene.place)] for i, scene in enumerate(scenes)])
    seen = benchmark.Embedded(clip_BD=places, identity_BD=places)
    assert benchmark.mark_kind(exam, key, "places", seen)["place named right"] == [1] * EACH
    gray = encoders.image_conditioning([Image.new("RGB", (64, 64), "gray")] * EACH)
    assert sum(benchmark.mark_kind(exam, key, "plain", gray)["noun named right"]) <= 1


def test_constant_pictures_are_retrieved_by_chance(exam: Exam, key: Key, encoders: Judges) -> None:
    rows = benchmark.mark_retrieval(key, encoders, [Image.new("RGB", (64, 64), "red")] * AMONG)
    for rank in (1, 5):
        assert value(rows, f"among {AMONG}", f"rank {rank}") == pytest.approx(rank / AMONG)
    alike_BD = torch.ones(AMONG, 4)
    assert np.mean(benchmark.found_within(alike_BD, alike_BD, 5)) == pytest.approx(5 / AMONG)
    assert len(exam.retrieval) == AMONG


def test_a_set_is_nearer_to_fresh_scenes_the_more_it_is_like_them(exam: Exam, key: Key, encoders: Judges) -> None:
    images = recall(exam.whole, 1.0)
    grays = [image.convert("L").convert("RGB") for image in images]
    distances = [
        [cell.value for cell in benchmark.mark_set(key, encoders, "drawn", drawn).values()]
        for drawn in (exam.fresh, images, grays)
    ]
    assert distances[0] == pytest.approx([0, 0], abs=1e-6)
    for nearer, farther in pairwise(distances):
        assert all(one < other for one, other in zip(nearer, farther, strict=True))


def test_an_interval_holds_its_mean_and_narrows_with_more_prompts() -> None:
    few, many = (benchmark.mean_of([0.0, 1.0] * count) for count in (6, 600))
    ends = [end for measured in (few, many) for end in (measured.low, measured.high) if end is not None]
    assert ends[0] < ends[2] < many.value == 0.5 < ends[3] < ends[1]
    assert ends[3] - ends[2] == pytest.approx(4 * 0.5 / 1200**0.5, rel=0.1)  # two standard errors each way
    assert benchmark.mean_of([0.25] * 5) == Measured(value=0.25, low=0.25, high=0.25, values=(0.25,) * 5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_real_base_drawn_twice_gives_equal_numbers_and_other_seeds_others(world: World, tiny_base: Path) -> None:
    exams = [write_exam(world, each=2, count=0, seed=seed, among=4) for seed in (0, 0)]
    exams = [replace(exam, kinds={kind: exam.kinds[kind] for kind in ("plain", "places", "names")}) for exam in exams]
    plain = [replace(scene, seed=scene.seed + 1) for scene in exams[0].kinds["plain"]]
    exams.append(replace(exams[0], kinds=exams[0].kinds | {"plain": plain}))
    generator = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"), batch_size=4)
    judged = Judges(clip=Eye(exams[0]), identity=Eye(exams[0]))
    columns = [
        examine("tiny", benchmark.drawn_by(generator, 1), exam, write_key(exam, judged), judged, guidance=2.0, sets={})
        for exam in exams
    ]
    assert columns[0].rows == columns[1].rows
    assert value(columns[2].rows, "plain", "CLIP-T") != value(columns[0].rows, "plain", "CLIP-T")
    assert value(columns[2].rows, "places", "CLIP-T") == value(columns[0].rows, "places", "CLIP-T")


def test_the_tables_have_a_column_for_each_base_and_a_dash_where_nothing_was_measured(composed: Column) -> None:
    section = (benchmark.SETS_SECTION, "drawn at guidance 5", "Fréchet distance, CLIP")
    lines = benchmark.tables(
        [Column(label="mine", rows={section: Measured(value=2.0)}, images={}), composed]
    ).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert {len(row) for row in rows} == {4}
    assert rows[0] == ["asked", "measure", "mine", COMPOSED]
    assert ["drawn at guidance 5", "Fréchet distance, CLIP", "2.0000", "-"] in rows
    assert sum(row[0] in KINDS for row in rows) == sum(
        section == benchmark.KINDS_SECTION for section, _, _ in composed.rows
    )
    assert not [line for line in lines if "FID" in line]


def test_numbers_and_sheets_are_written_whole(tmp_path: Path, exam: Exam, composed: Column, encoders: Judges) -> None:
    options: Any = SimpleNamespace(
        seed=0, each=EACH, count=COUNT, guidance=5.0, steps=1, out=tmp_path / "base.json", sheet=tmp_path / "sheets"
    )
    benchmark.report(options, exam, encoders, [composed])
    found = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert found["encoders"] == ["CLIP: an eye", "identity encoder: an eye"]
    numbers = {
        tuple(row[name] for name in ("section", "asked", "measure")): row["columns"][COMPOSED] for row in found["rows"]
    }
    assert {row: cell["value"] for row, cell in numbers.items()} == {
        row: cell.value for row, cell in composed.rows.items()
    }
    assert numbers[benchmark.KINDS_SECTION, "plain", "CLIP-T"]["values"] == [pytest.approx(1)] * EACH
    with Image.open(tmp_path / "sheets" / "composed-scenes.png") as sheet:
        assert sheet.width > EACH * 128
        assert sheet.height > len(KINDS) * 128
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["base.json", "composed-scenes.png", "sheets"]


MISTAKES = {
    "--count 20": "20 is too few for embeddings 27 wide; give more than 27, or 0",
    "--count -1": "-1 is too few",
    "--each 1": "give 2 or more",
    "--steps 0": "steps 0 draw",
    "--guidance -1": "guidance -1 and",
    "--work nowhere": "run `python -m starter_recipe collect --work nowhere`",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_one_sentence_before_anything_is_drawn(
    mistake: str, tiny_base: Path, encoders: Judges, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, judge in (("read_clip", encoders.clip), ("read_identity_encoder", encoders.identity)):
        monkeypatch.setattr(benchmark, name, lambda *_, judge=judge: judge)
    with pytest.raises(SystemExit) as stop:
        benchmark.main([str(tiny_base), "--clip", "c", "--identity", "i", *mistake.split()])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert MISTAKES[mistake] in said.err
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    ("bases", "sentence"), [(["starter", "starter"], "two bases have one name"), (["no/such/base"], "does not exist")]
)
def test_bases_that_cannot_be_told_apart_or_found_are_refused(
    bases: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(bases)
    assert sentence in capsys.readouterr().err
