"""Laws of evaluation: scores equal their definitions, and nothing is generated twice."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mascot.api.calibrate import calibrate
from mascot.api.evaluate import evaluate
from mascot.api.experiments.compare import read_scores
from mascot.api.generate import generate
from mascot.api.train import train
from mascot.errors import UserError
from mascot.evaluation.evaluation_task import CLASS_IMAGES, prompts_for
from mascot.evaluation.metrics.image_encoders import ClipEncoder, IdentityEncoder
from mascot.evaluation.score_tables import means_table, prompts_table, runs_table
from mascot.evaluation.scores import Score, Scores
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.live_nouns import LIVE_NOUNS, is_live
from mascot.generation.prompts.prompt_sets import PAPER, STARTER
from mascot.generation.sample_cache import weights_name
from mascot.models import starter
from mascot.models.families.registry import load_family
from mascot.progress import Event, ImageGenerated
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from starter_training.scenes.caption_words import ALIVE
from tiny.encoders import tiny_identity
from tiny.world import IMAGES, PLAIN, TRAINED_ON, World, cosines, mean, read, value


@pytest.fixture(scope="module")
def scores(world: World) -> Scores:
    """Evaluated once, with one photo held out."""
    return world.evaluate(photos=[world.folder / "photos"])


def generated(world: World, scores: Scores) -> list[list[Image.Image]]:
    """The images that the scores name, prompt by prompt."""
    return [read([world.run.folder / image.file for image in prompt.images]) for prompt in scores.prompts]


def refuse_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generator, "generate_batch", lambda *_: pytest.fail("every image is cached"))


def test_subject_fidelity_is_the_mean_of_all_pairs(world: World, scores: Scores) -> None:
    images = list(itertools.chain(*generated(world, scores)))
    for name, encoder in zip(("identity", "clip_i"), world.encoders, strict=True):
        photos = encoder.embed(world.photos(3))
        assert value(scores, name) == pytest.approx(mean(cosines(encoder.embed(images), photos)), abs=1e-6)
        real = [cosines(a[None], b[None])[0] for a, b in itertools.permutations(photos, 2)]
        assert value(scores, f"real_{name}") == pytest.approx(mean(real), abs=1e-6)


def test_prompts_are_read_without_the_token(world: World, scores: Scores) -> None:
    clip = world.encoders[1]
    expected: list[float] = []
    for text, images, row in zip(PLAIN, generated(world, scores), scores.prompts, strict=True):
        each = cosines(clip.embed(images), clip.embed_prompts([text]))
        assert [image.values["clip_t"] for image in row.images] == pytest.approx(each, abs=1e-6)
        assert row.values["clip_t"] == pytest.approx(mean(each), abs=1e-6)
        expected += each
    assert value(scores, "clip_t") == pytest.approx(mean(expected), abs=1e-6)
    assert any("without the token: 'a dog in the snow'" in note for note in scores.notes)


def test_diversity_is_between_images_of_one_prompt(world: World, scores: Scores) -> None:
    identity = world.encoders[0]
    expected: list[float] = []
    for images, row in zip(generated(world, scores), scores.prompts, strict=True):
        one, two = identity.patches(images)
        expected.append(1 - mean([cosines(a[None], b[None])[0] for a, b in zip(one, two, strict=True)]))
        assert row.values["diversity"] == pytest.approx(expected[-1], abs=1e-6)
    assert value(scores, "diversity") == pytest.approx(mean(expected), abs=1e-6)


def test_copying_compares_equal_numbers_of_training_and_held_out_photos(world: World, scores: Scores) -> None:
    identity = world.encoders[0]
    photos = identity.embed(world.photos(3))
    images = identity.embed(list(itertools.chain(*generated(world, scores))))
    trained, held_out = photos[:TRAINED_ON], photos[TRAINED_ON:]
    excess = [mean(cosines(row[None], trained)) - cosines(row[None], held_out)[0] for row in images]
    assert value(scores, "copying") == pytest.approx(mean(excess), abs=1e-6)
    apart = cosines(photos[:1], photos[1:TRAINED_ON])[0]
    nearest = [max(cosines(row[None], trained)) - apart for row in images]
    assert value(scores, "nearest") == pytest.approx(mean(nearest), abs=1e-6)


def test_the_base_gets_the_same_prompts_with_the_class_noun_alone(world: World, scores: Scores) -> None:
    """At adapter strength 0 the base's images equal those of a base without an adapter."""
    identity, clip = world.encoders
    base = Generator(load_family(str(world.base), device="cpu", precision="fp32"))
    knobs = Knobs(steps=1, guidance=scores.knobs.guidance)
    images = list(base.generate([ImageRequest(prompt, seed) for prompt in PLAIN for seed in range(IMAGES)], knobs))
    texts = clip.embed_prompts([prompt for prompt in PLAIN for _ in range(IMAGES)])
    expected = [cosines(a[None], b[None])[0] for a, b in zip(clip.embed(images), texts, strict=True)]
    assert value(scores, "base_clip_t") == pytest.approx(mean(expected), abs=1e-6)
    assert [row.values["base_clip_t"] for row in scores.prompts] == pytest.approx(
        [mean(expected[:2]), mean(expected[2:])], abs=1e-6
    )
    photos = identity.embed(world.photos(3))
    of_class = list(
        base.generate([ImageRequest("a photo of a dog", seed) for seed in range(CLASS_IMAGES * IMAGES)], knobs)
    )
    assert value(scores, "base_preservation") == pytest.approx(
        mean(cosines(identity.embed(of_class), photos)), abs=1e-6
    )
    trained = generate(world.run, ["a photo of a dog"], knobs, count=CLASS_IMAGES * IMAGES)
    assert value(scores, "preservation") == pytest.approx(mean(cosines(identity.embed(trained), photos)), abs=1e-6)
    assert value(scores, "drift") == pytest.approx(
        value(scores, "preservation") - value(scores, "base_preservation"), abs=1e-9
    )


def test_a_second_call_generates_and_embeds_nothing(
    world: World, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_generation(monkeypatch)
    monkeypatch.setattr(IdentityEncoder, "embed", lambda *_: pytest.fail("every embedding is cached"))
    monkeypatch.setattr(ClipEncoder, "embed", lambda *_: pytest.fail("every embedding is cached"))
    monkeypatch.setattr(IdentityEncoder, "patches", lambda *_: pytest.fail("every distance is cached"))
    assert world.evaluate(photos=[world.folder / "photos"]) == scores


def test_other_encoders_score_the_same_images(
    world: World, scores: Scores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuse_generation(monkeypatch)
    shutil.copytree(world.run.folder, tmp_path / "run")
    again = world.evaluate(
        tmp_path / "run", photos=[world.folder / "photos"], identity=str(tiny_identity(tmp_path / "dino-like", seed=1))
    )
    assert [prompt.images[0].file for prompt in again.prompts] == [prompt.images[0].file for prompt in scores.prompts]
    assert again.values["clip_t"] == scores.values["clip_t"]
    assert again.values["identity"] != scores.values["identity"]
    assert again.encoders["identity"].startswith("dino-like (weights ")
    assert "DINO" in runs_table([again]).head
    assert "DINO" not in runs_table([scores]).head


def test_another_run_finds_the_base_s_images_cached(
    world: World, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's images are generated once for all runs."""
    run = world.write("neighbour", seed=3)
    strengths: list[float] = []
    generate_images = Generator.generate

    def watched(self: Generator, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        strengths.append(knobs.unet_scale)
        return generate_images(self, requests, knobs)

    monkeypatch.setattr(Generator, "generate", watched)
    again = world.evaluate(run, photos=[world.folder / "photos"])
    assert set(strengths) == {1.0}
    assert again.values["base_clip_t"] == scores.values["base_clip_t"]


@pytest.mark.parametrize("kept", [1, 3, 9])
def test_a_killed_evaluation_continues_to_the_same_scores(
    world: World, scores: Scores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int
) -> None:
    """Wherever it is killed, no image is written twice."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    run = Run(tmp_path / "run")
    for name in ("recipe", "adapter"):
        getattr(run, name).parent.mkdir(exist_ok=True)
        getattr(run, name).write_bytes(getattr(world.run, name).read_bytes())
    files: list[Path] = []

    def kill(event: Event) -> None:
        if isinstance(event, ImageGenerated):
            files.append(event.path)
        if len(files) == kept:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.evaluate(run, photos=[world.folder / "photos"], on_event=kill)
    assert not run.scores.exists()
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    again = world.evaluate(run, photos=[world.folder / "photos"])
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before
    assert again.model_copy(update={"name": scores.name}) == scores


def test_scores_are_read_as_they_were_written(world: World, scores: Scores) -> None:
    assert Scores.read(world.run.scores) == scores
    text = world.run.scores.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["knobs"]["solver"] == "ddim"
    assert scores.weights == weights_name(
        load_family(str(world.base), device="cpu", precision="fp32"), world.run.adapter
    )
    assert all((world.run.folder / image.file).is_file() for prompt in scores.prompts for image in prompt.images)


def test_weights_have_different_names(world: World) -> None:
    family = load_family(str(world.base), device="cpu", precision="fp32")
    names = {
        weights_name(family),
        *(weights_name(family, world.write(f"weights{seed}", seed=seed).adapter) for seed in (4, 5)),
    }
    assert len(names) == 3
    assert weights_name(family, world.run.adapter) not in names


def test_a_score_is_a_number_or_a_reason() -> None:
    for fault in ({"value": None}, {"value": float("nan")}, {"value": float("inf")}):
        with pytest.raises(ValidationError):
            Score.model_validate(fault)
    assert Score(value=None, reason="no photo").value is None


def test_scores_of_another_version_are_refused(scores: Scores, tmp_path: Path) -> None:
    for change in ({"version": 2}, {"values": {}}, {"more": 1}):
        path = tmp_path / "scores.json"
        path.write_text(json.dumps(scores.model_dump(mode="json") | change), encoding="utf-8")
        with pytest.raises(UserError, match="another version"):
            Scores.read(path)


def test_a_missing_score_has_a_reason(world: World) -> None:
    run = world.write("alone", class_noun=None, trained_on=1)
    found = world.evaluate(run, prompts=["a {subject} in the snow"], images=1)
    reasons = {name: score.reason for name, score in found.values.items() if score.value is None}
    assert set(reasons) == set(found.values) - {"identity", "clip_i"}
    assert all(
        "class noun" in reasons[name] for name in ("clip_t", "base_clip_t", "preservation", "drift", "base_identity")
    )
    assert "--images 2" in reasons["diversity"]
    assert "held out" in reasons["copying"]
    assert "one photo" in reasons["nearest"]
    assert "one photo" in reasons["real_identity"]
    assert "segmenter" in reasons["cutout"]
    tables = (runs_table([found]), means_table([found]), prompts_table(found))
    words = " ".join(" ".join(cell for row in table.rows for cell in row) for table in tables)
    assert not re.search(r"\b(nan|inf|none)\b", words, re.IGNORECASE)
    assert any("class noun" in note for note in tables[0].notes)


def test_an_adapter_without_its_run_names_what_is_missing(world: World, tmp_path: Path) -> None:
    """An adapter file alone is scored beside itself; subject fidelity needs photos."""
    path = tmp_path / "gift.safetensors"
    path.write_bytes(world.run.adapter.read_bytes())
    found = world.evaluate(path, images=1)
    assert "--photos" in found.values["identity"].reason
    assert found.values["clip_t"].value is not None
    assert (tmp_path / "gift_scores" / "scores.json").is_file()
    assert (tmp_path / "gift_scores" / "scores.html").is_file()
    with_photos = world.evaluate(path, images=1, photos=[world.folder / "photos"])
    assert with_photos.values["identity"].value is not None
    assert "not known which photos it was trained on" in with_photos.values["copying"].reason
    assert read_scores(path)[0] == read_scores(tmp_path / "gift_scores")[0].model_copy(update={"name": str(path)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ["a dog in the snow"]}, "does not name the subject"),
        ({"prompts": []}, "nothing to generate"),
        ({"images": 0}, "nothing to generate"),
        ({"prompts": ["a {subjekt}"]}, "placeholder"),
        ({"photos": ["nowhere"]}, "nowhere does not exist"),
        ({"identity": "nowhere"}, "no folder"),
        ({"base": "nowhere"}, "nowhere"),
        ({"device": "cuda"}, "no cuda device"),
    ],
    ids=str,
)
def test_user_errors_are_raised_before_any_image_is_generated(
    world: World, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a cuda device")
    refuse_generation(monkeypatch)
    with pytest.raises(UserError, match=message):
        world.evaluate(**options)


def test_missing_photos_are_named(world: World, tmp_path: Path) -> None:
    recipe = world.run.recipe.read_text(encoding="utf-8").replace(str(world.folder / "photos"), str(tmp_path / "gone"))
    run = Run(tmp_path / "moved")
    run.write_text(run.recipe, recipe)
    run.adapter.write_bytes(world.run.adapter.read_bytes())
    with pytest.raises(
        UserError, match=r"the photos of .*moved cannot be read: .*gone.* does not exist; put them back"
    ):
        world.evaluate(run)
    found = world.evaluate(run, images=1, photos=[world.folder / "photos"])
    assert "not known which photos it was trained on" in found.values["copying"].reason


def test_prompts_are_the_base_s_and_the_kind_of_subject_s() -> None:
    dog, can = Subject("sks", "dog"), Subject("sks", "can")
    assert prompts_for("starter", dog, live=None) == (STARTER.live, True)
    assert prompts_for("starter", can, live=None) == (STARTER.objects, False)
    assert prompts_for("owner/base", dog, live=None) == (PAPER.live, True)
    assert prompts_for("owner/base", dog, live=False) == (PAPER.objects, False)
    assert prompts_for("owner/base", Subject("sks"), live=None) == (PAPER.objects, False)
    assert prompts_for("owner/base", Subject("sks"), live=True) == (PAPER.live, True)


def test_the_live_classes_are_the_paper_s_and_the_embedded_world_s() -> None:
    """Toys and cartoons can wear things in the embedded world, and are objects in the paper."""
    objects = {"stuffed animal", "plushie", "cartoon"}
    assert (ALIVE - objects) | {"cat", "dog"} <= LIVE_NOUNS
    assert not any(map(is_live, objects))
    assert all(is_live(held.class_noun) for held in starter.subjects().values() if held.live)


def test_the_paper_s_prompts_are_the_data_set_s(shared_data: Path) -> None:
    text = (shared_data / "dreambooth" / "prompts_and_classes.txt").read_text(encoding="utf-8")
    found = [prompt.replace("{0} {1}", "{subject}") for prompt in re.findall(r"^'(.+)'\.format", text, re.MULTILINE)]
    assert found == [*PAPER.objects, *PAPER.live]
    assert len(PAPER.objects) == len(PAPER.live) == 25


def test_real_photos_are_scored_against_each_other(world: World) -> None:
    folders = [world.folder / "photos", world.folder / "photos" / "0.png"]
    rows, encoders = calibrate(folders, identity=str(world.identity), clip=str(world.clip), device="cpu")
    real = [
        cosines(a[None], b[None])[0] for a, b in itertools.permutations(encoders.identity.embed(world.photos(3)), 2)
    ]
    assert rows[0].values["identity"].value == pytest.approx(mean(real), abs=1e-6)
    assert rows[0].photos == 3
    assert "one photo" in rows[1].values["clip_i"].reason


@pytest.mark.slow
def test_scores_of_a_short_training_are_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a short training the images are nearer to the photos than the base's images."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    held = starter.subjects()["parrot"]
    photos = tuple(str(photo) for photo in held.photos[:-1])
    overrides = ["training.steps=60", "method.rank=4", "prior.count=8", "previews.every=0", "selection.active=false"]
    run = train(
        Recipe.preset(photos=photos, class_noun=held.class_noun, overrides=overrides),
        out=tmp_path / "run",
        report=False,
    )
    prompts = ("a {subject} in the snow", "a {subject} on a beach", "a {subject} in the city")
    found = evaluate(run, prompts=prompts, images=2, photos=[held.photos[0].parent])
    assert found.live
    assert found.encoders["identity"].startswith("identity (weights ")
    assert value(found, "base_identity") + 0.1 < value(found, "identity") < value(found, "real_identity")
    assert value(found, "base_clip_t") > 0.5
    assert abs(value(found, "copying")) < 0.3
    assert value(found, "diversity") > 0
