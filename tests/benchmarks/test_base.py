"""Laws of measuring a base: composed scenes are the ceiling, shuffled prompts the floor."""

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
from benchmarks import base_prompts, base_scores
from benchmarks.base import COMPOSED, Column, composed_images, measure_base
from benchmarks.base_prompts import KINDS, BasePrompts, choose, compose_prompts
from benchmarks.base_scores import Encoders, Measurement, References, Rows, embed_references
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from starter_training.drawings.objects import read_objects
from starter_training.scenes import world as worlds
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.canvas import COLORS
from starter_training.scenes.caption_words import ALIVE, BESIDE, PLURALS, RIGHT_OF, TINTS
from starter_training.scenes.textures import FILTERS, MATERIALS
from starter_training.scenes.world import World

EACH, COUNT, AMONG = 6, 40, 20
SETS = {"generated": 1.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world's own words, with colored discs as drawings and one backdrop for each place."""
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
    """An RGBA disc of a color that its name decides."""
    rows, columns = np.mgrid[-1:1:24j, -1:1:24j]
    color = hashlib.sha256(key.encode()).digest()[:3]
    covered = ((rows**2 + columns**2) < 1).astype(np.uint8) * 255
    return np.dstack([*(np.full_like(covered, value) for value in color), covered])


@pytest.fixture(scope="module")
def prompts(world: World) -> BasePrompts:
    return compose_prompts(world, each=EACH, count=COUNT, seed=0, among=AMONG)


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((3, 3), Image.Resampling.BOX), np.float32)).flatten() - 128


class PixelEncoder:
    """Embeds an image as 27 values, and a prompt as the composed image that it describes."""

    def __init__(self, prompts: BasePrompts) -> None:
        scenes = [*(scene for scenes in prompts.kinds.values() for scene in scenes), *prompts.retrieval]
        self.described = {scene.prompt: pixels_of(scene.image) for scene in scenes}
        self.embedded = 0

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        self.embedded += len(images)
        return F.normalize(torch.stack([pixels_of(image) for image in images]), dim=-1)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        unknown = [
            torch.from_numpy(np.frombuffer(hashlib.sha256(prompt.encode()).digest()[:27], np.uint8).copy()).float()
            for prompt in prompts
        ]
        rows = [self.described.get(prompt, other - 128) for prompt, other in zip(prompts, unknown, strict=True)]
        return F.normalize(torch.stack(rows), dim=-1)

    def describe(self) -> str:
        return "pixels"


@pytest.fixture(scope="module")
def encoders(prompts: BasePrompts) -> Encoders:
    encoder = PixelEncoder(prompts)
    return Encoders(clip=encoder, identity=encoder)


@pytest.fixture(scope="module")
def references(prompts: BasePrompts, encoders: Encoders) -> References:
    return embed_references(prompts, encoders)


@pytest.fixture(scope="module")
def composed(prompts: BasePrompts, references: References, encoders: Encoders) -> Column:
    return measure_base(COMPOSED, composed_images, prompts, references, encoders, guidance=1.0, sets=SETS)


def value(rows: Rows, asked: str, measure: str) -> float:
    return next(cell.value for (_, kind, name), cell in rows.items() if (kind, name) == (asked, measure))


class Oracle:
    """A generator that returns the composed image for each prompt and seed."""

    def __init__(self, prompts: BasePrompts) -> None:
        scenes = [*(scene for scenes in prompts.kinds.values() for scene in scenes)]
        scenes += [*prompts.retrieval, *prompts.set_scenes]
        self.known = {ImageRequest(scene.prompt, scene.seed): scene.image for scene in scenes}
        assert len(self.known) == len(scenes), "each image has a seed of its own"
        self.knobs: list[Knobs] = []

    def generate(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        self.knobs.append(knobs)
        yield from (self.known[request] for request in requests)


def words_of(world: World) -> set[str]:
    """Return every word that a caption of the world can have."""
    phrases = [
        *world.nouns,
        *(PLURALS.get(noun, noun + "s") for noun in world.nouns),
        *PLACES,
        *FILTERS,
        *TINTS,
        *COLORS,
        *MATERIALS,
        *BESIDE,
        RIGHT_OF,
    ]
    phrases += [
        *world.arts.values(),
        *(words for words, _, _ in world.accessories),
        *(who.name for n in world.nouns for who in world.instances[n]),
    ]
    phrases.append("a an of photo on background wearing holding upside down lying on its side small big two next to")
    return {word for phrase in phrases for word in phrase.split()}


def test_the_border_says_what_color_the_background_has() -> None:
    """A gray figure on purple: all of the border is purple; a purple figure on gray: none of it."""
    gray, purple = (Image.new("RGB", (64, 64), COLORS[color]) for color in ("gray", "purple"))
    image, other = purple.copy(), gray.copy()
    image.paste(gray.resize((40, 40)), (12, 12))
    other.paste(purple.resize((40, 40)), (12, 12))
    assert [base_scores.border_share(shown, "purple") for shown in (image, other)] == [1, 0]
    image.paste(COLORS["white"], (0, 0, 32, 64))
    assert base_scores.border_share(image, "purple") == pytest.approx(0.5)
    assert base_scores.color_of("a photo of a purple can") == "purple"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_exactly_as_many_different_prompts_as_wanted_all_of_the_worlds_words(
    world: World, kind: str
) -> None:
    scenes = choose(world, kind, 24, seed=3)
    assert len({scene.prompt for scene in scenes}) == len(scenes) == 24
    assert {word for scene in scenes for word in scene.prompt.split()} <= words_of(world)
    assert all(set(scene.nouns) <= set(world.nouns) for scene in scenes)
    assert {scene.image.size for scene in scenes} == {(world.side, world.side)}


def test_a_prompt_names_what_is_right_about_its_image(world: World) -> None:
    for kind in KINDS:
        for scene in choose(world, kind, 24, seed=4):
            named = {n for n in scene.nouns if n in scene.prompt or PLURALS.get(n, n + "s") in scene.prompt}
            assert scene.nouns[0] in named, scene.prompt
            assert set(scene.nouns) <= {alike for noun in named for alike in world.kin(noun)}, scene.prompt
            assert scene.place in scene.prompt
    for scene in choose(world, "names", 24, seed=4):
        assert world.instances[scene.nouns[0]][scene.individual].name in scene.prompt.split()
    assert all(scene.nouns[0] in ALIVE for scene in choose(world, "accessories", 24, seed=4))
    assert all(
        " wearing " in scene.prompt or " holding " in scene.prompt for scene in choose(world, "accessories", 24, seed=4)
    )


def test_more_prompts_than_there_are_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_prompts, "ATTEMPTS", 2)
    with pytest.raises(
        UserError, match=f"only {len(world.nouns)} different prompts; give --each {len(world.nouns)} or fewer"
    ):
        choose(world, "plain", len(world.nouns) + 1, seed=0)


def test_equal_seeds_give_equal_prompts_and_other_seeds_others(world: World, prompts: BasePrompts) -> None:
    again, other = (compose_prompts(world, each=EACH, count=COUNT, seed=seed, among=AMONG) for seed in (0, 1))
    assert contents(again) == contents(prompts)
    assert all(one != two for one, two in zip(contents(other), contents(prompts), strict=True))


def contents(prompts: BasePrompts) -> list[Any]:
    scenes = [scene for asked in (*prompts.kinds.values(), prompts.retrieval, prompts.set_scenes) for scene in asked]
    return [
        [(scene.prompt, scene.seed, scene.image.tobytes()) for scene in scenes],
        [image.tobytes() for image in prompts.reference_set],
        [image.tobytes() for individuals in prompts.individuals.values() for images in individuals for image in images],
    ]


def test_the_two_sets_share_no_image_and_retrieval_no_prompt(prompts: BasePrompts) -> None:
    assert not {scene.image.tobytes() for scene in prompts.set_scenes} & {
        image.tobytes() for image in prompts.reference_set
    }
    assert len({scene.prompt for scene in prompts.retrieval}) == AMONG


def test_an_oracle_reaches_the_ceiling(
    prompts: BasePrompts, references: References, encoders: Encoders, composed: Column
) -> None:
    oracle: Any = Oracle(prompts)
    column = measure_base(
        "oracle", benchmark.generate_with(oracle, 7), prompts, references, encoders, guidance=5.0, sets=SETS
    )
    assert column.rows == composed.rows
    assert {(knobs.steps, knobs.guidance) for knobs in oracle.knobs} == {(7, 5.0), (7, 1.0)}
    assert value(column.rows, "plain", "CLIP-T") == pytest.approx(1)
    assert value(column.rows, f"among {AMONG}", "rank 1") == 1


def test_each_image_is_embedded_once_by_each_encoder(prompts: BasePrompts, references: References) -> None:
    clip, identity = PixelEncoder(prompts), PixelEncoder(prompts)
    measure_base(
        "x", composed_images, prompts, references, Encoders(clip=clip, identity=identity), guidance=1.0, sets=SETS
    )
    assert (clip.embedded, identity.embedded) == (len(KINDS) * EACH + AMONG + COUNT, len(KINDS) * EACH + COUNT)


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_prompts_are_the_floor(composed: Column, kind: str) -> None:
    assert value(composed.rows, kind, "CLIP-T, shuffled") < value(composed.rows, kind, "CLIP-T") - 0.1


def test_the_right_individual_is_more_similar_than_others(
    world: World, prompts: BasePrompts, references: References
) -> None:
    scene = prompts.kinds["names"][0]
    individuals_IMD = references.individuals[scene.nouns[0]]
    assert individuals_IMD.shape[:2] == (len(world.instances[scene.nouns[0]]), base_prompts.IMAGES_EACH)
    one, other = torch.eye(27)[:2]
    mine = torch.stack([other.expand(4, 27), one.expand(4, 27), other.expand(4, 27)])
    assert [base_scores.individual_margin(one, mine, right) for right in (1, 0)] == pytest.approx([1, -0.5])


def test_what_an_image_shows_is_named(prompts: BasePrompts, references: References, encoders: Encoders) -> None:
    """A perfect encoder names all nouns and places; one image for all prompts names one at most."""
    scenes = prompts.kinds["places"]
    nouns = torch.stack([references.nouns_ND[prompts.nouns.index(scene.nouns[0])] for scene in scenes])
    seen = base_scores.Embeddings(clip_BD=nouns, identity_BD=nouns)
    assert base_scores.score_kind(prompts, references, "places", seen)["noun named right"] == [1] * EACH
    places = torch.stack([references.places_BND[i, list(PLACES).index(scene.place)] for i, scene in enumerate(scenes)])
    seen = base_scores.Embeddings(clip_BD=places, identity_BD=places)
    assert base_scores.score_kind(prompts, references, "places", seen)["place named right"] == [1] * EACH
    gray = encoders.embed([Image.new("RGB", (64, 64), "gray")] * EACH)
    assert sum(base_scores.score_kind(prompts, references, "plain", gray)["noun named right"]) <= 1


def test_constant_images_are_retrieved_by_chance(
    prompts: BasePrompts, references: References, encoders: Encoders
) -> None:
    rows = base_scores.score_retrieval(references, encoders, [Image.new("RGB", (64, 64), "red")] * AMONG)
    for rank in (1, 5):
        assert value(rows, f"among {AMONG}", f"rank {rank}") == pytest.approx(rank / AMONG)
    alike_BD = torch.ones(AMONG, 4)
    assert np.mean(base_scores.found_within(alike_BD, alike_BD, 5)) == pytest.approx(5 / AMONG)
    assert len(prompts.retrieval) == AMONG


def test_a_set_is_nearer_to_fresh_scenes_the_more_it_is_like_them(
    prompts: BasePrompts, references: References, encoders: Encoders
) -> None:
    images = composed_images(prompts.set_scenes, 1.0)
    grays = [image.convert("L").convert("RGB") for image in images]
    distances = [
        [cell.value for cell in base_scores.score_set(references, encoders, "generated", generated).values()]
        for generated in (prompts.reference_set, images, grays)
    ]
    assert distances[0] == pytest.approx([0, 0], abs=1e-6)
    for nearer, farther in pairwise(distances):
        assert all(one < other for one, other in zip(nearer, farther, strict=True))


def test_an_interval_holds_its_mean_and_narrows_with_more_prompts() -> None:
    few, many = (base_scores.mean_of([0.0, 1.0] * count) for count in (6, 600))
    ends = [end for measured in (few, many) for end in (measured.low, measured.high) if end is not None]
    assert ends[0] < ends[2] < many.value == 0.5 < ends[3] < ends[1]
    assert ends[3] - ends[2] == pytest.approx(4 * 0.5 / 1200**0.5, rel=0.1)  # two standard errors each way
    assert base_scores.mean_of([0.25] * 5) == Measurement(value=0.25, low=0.25, high=0.25, values=(0.25,) * 5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_a_real_base_measured_twice_gives_equal_numbers_and_other_seeds_others(world: World, tiny_base: Path) -> None:
    lists = [compose_prompts(world, each=2, count=0, seed=seed, among=4) for seed in (0, 0)]
    lists = [replace(one, kinds={kind: one.kinds[kind] for kind in ("plain", "places", "names")}) for one in lists]
    plain = [replace(scene, seed=scene.seed + 1) for scene in lists[0].kinds["plain"]]
    lists.append(replace(lists[0], kinds=lists[0].kinds | {"plain": plain}))
    generator = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"), batch_size=4)
    own = Encoders(clip=PixelEncoder(lists[0]), identity=PixelEncoder(lists[0]))
    generate = benchmark.generate_with(generator, 1)
    columns = [
        measure_base("tiny", generate, one, embed_references(one, own), own, guidance=2.0, sets={}) for one in lists
    ]
    assert columns[0].rows == columns[1].rows
    assert value(columns[2].rows, "plain", "CLIP-T") != value(columns[0].rows, "plain", "CLIP-T")
    assert value(columns[2].rows, "places", "CLIP-T") == value(columns[0].rows, "places", "CLIP-T")


def test_the_tables_have_a_column_for_each_base_and_a_dash_where_nothing_was_measured(composed: Column) -> None:
    section = (base_scores.SETS_SECTION, "generated at guidance 5", "Fréchet distance, CLIP")
    lines = benchmark.tables(
        [Column(label="mine", rows={section: Measurement(value=2.0)}, images={}), composed]
    ).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert {len(row) for row in rows} == {4}
    assert rows[0] == ["asked", "measure", "mine", COMPOSED]
    assert ["generated at guidance 5", "Fréchet distance, CLIP", "2.0000", "-"] in rows
    assert sum(row[0] in KINDS for row in rows) == sum(
        section == base_scores.KINDS_SECTION for section, _, _ in composed.rows
    )
    assert not [line for line in lines if "FID" in line]


def test_numbers_and_sheets_are_written_whole(
    tmp_path: Path, prompts: BasePrompts, composed: Column, encoders: Encoders
) -> None:
    options: Any = SimpleNamespace(
        seed=0, each=EACH, count=COUNT, guidance=5.0, steps=1, out=tmp_path / "base.json", sheet=tmp_path / "sheets"
    )
    benchmark.report(options, prompts, encoders, [composed])
    found = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert found["encoders"] == ["CLIP: pixels", "identity encoder: pixels"]
    numbers = {
        tuple(row[name] for name in ("section", "asked", "measure")): row["columns"][COMPOSED] for row in found["rows"]
    }
    assert {row: cell["value"] for row, cell in numbers.items()} == {
        row: cell.value for row, cell in composed.rows.items()
    }
    assert numbers[base_scores.KINDS_SECTION, "plain", "CLIP-T"]["values"] == [pytest.approx(1)] * EACH
    with Image.open(tmp_path / "sheets" / "composed-scenes.png") as sheet:
        assert sheet.width > EACH * 128
        assert sheet.height > len(KINDS) * 128
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["base.json", "composed-scenes.png", "sheets"]


MISTAKES = {
    "--count 20": "20 is too few for embeddings 27 wide; give more than 27, or 0",
    "--count -1": "-1 is too few",
    "--each 1": "give 2 or more",
    "--steps 0": "steps 0 generate",
    "--guidance -1": "guidance -1 and",
    "--work nowhere": "run `python -m starter_training collect --work nowhere`",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_sentence_before_anything_is_generated(
    mistake: str,
    tiny_base: Path,
    encoders: Encoders,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, encoder in (("read_clip", encoders.clip), ("read_identity_encoder", encoders.identity)):
        monkeypatch.setattr(benchmark, name, lambda *_, encoder=encoder: encoder)
    with pytest.raises(SystemExit) as stop:
        benchmark.main([str(tiny_base), "--clip", "c", "--identity", "i", *mistake.split()])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert MISTAKES[mistake] in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize(
    ("bases", "sentence"), [(["starter", "starter"], "two bases have one name"), (["no/such/base"], "does not exist")]
)
def test_bases_that_share_a_name_or_do_not_exist_are_refused(
    bases: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(bases)
    assert sentence in capsys.readouterr().err
