"""Laws of cross-validation: a fold is the run without one photo, and the base model scores 0."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mascot.adapters.adapter_file import Adapter
from mascot.api.experiments import cross_validate as cross_validate_api
from mascot.api.experiments.cross_validate import cross_validate
from mascot.api.train import train
from mascot.data.photos import read_photos
from mascot.errors import UserError
from mascot.evaluation.comparison import compare_scores
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.evaluator import Scorers
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.diversity import PatchDistance
from mascot.evaluation.metrics.foreground import NoSegmenter
from mascot.evaluation.metrics.image_encoders import IdentityEncoder
from mascot.evaluation.samples import ImageSet, Samples
from mascot.evaluation.score_tables import folds_table, means_table, runs_table
from mascot.evaluation.scores import Scores
from mascot.evaluation.scores_page import scores_page
from mascot.experiments.cross_validation import FoldEvaluator, FoldPlan, plan_folds, score_fold
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.sample_cache import SampleCache
from mascot.models import starter
from mascot.models.families.registry import load_family
from mascot.progress import Event, ImageGenerated, StepTrained
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.reports.page import render
from mascot.storage.run_folder import Run
from tiny.photos import noise
from tiny.world import HELD_OUT, PLAIN, PROMPTS, TRAINED_ON, World, cosines, mean, read, value

PHOTOS = TRAINED_ON + HELD_OUT
STEP = 2


def trained(world: World, name: str, **options: Any) -> Run:
    """A run that kept its second step, of which the fourth would have been the last."""
    run = world.write(name, **({"trained_on": PHOTOS} | options))
    changes = {
        "training": Recipe.read(run.recipe).training.model_copy(update={"steps": 2 * STEP, "checkpoint_every": 1})
    }
    run.write_text(run.recipe, Recipe.read(run.recipe).model_copy(update=changes).to_toml())
    adapter = Adapter.read(run.adapter)
    assert adapter.manifest is not None
    replace(adapter, manifest=adapter.manifest.model_copy(update={"step": STEP})).write(run.adapter)
    return run


def validated(world: World, run: Run | Path, **options: Any) -> Scores:
    given = {"prompts": PROMPTS, "images": 1, "identity": str(world.identity), "clip": str(world.clip), "device": "cpu"}
    return cross_validate(run, **(given | options))


@pytest.fixture(scope="module")
def run(world: World) -> Run:
    return trained(world, "run_of_folds")


@pytest.fixture(scope="module")
def scores(world: World, run: Run) -> Scores:
    return validated(world, run)


def planned(run: Run, **options: Any) -> FoldPlan:
    return plan_folds(Adapter.read(run.adapter), run.adapter, **options)


def test_each_photo_is_held_out_once_and_the_rest_is_the_run_s(run: Run, scores: Scores) -> None:
    own, plan = Recipe.read(run.recipe), planned(run)
    assert sorted(fold.photo for fold in scores.folds) == [f"{number}.png" for number in range(PHOTOS)]
    for fold, scored in zip(plan.folds, scores.folds, strict=True):
        kept = Recipe.read(fold.run.recipe)
        assert {Path(photo).name for photo in kept.photos} == {Path(photo).name for photo in own.photos} - {
            scored.photo
        }
        changed = {name for name in Recipe.model_fields if getattr(kept, name) != getattr(own, name)}
        assert changed <= {"photos", "selection", "previews"}
        assert not kept.selection.active
        manifest = Adapter.read(fold.run.adapter).manifest
        assert manifest is not None
        assert manifest.step == scored.step == STEP
        assert [row["step"] for row in fold.run.read_steps()] == [1, STEP]
        assert (run.folder / scored.thumbnail).is_file()


def test_scores_are_their_definitions(world: World, run: Run, scores: Scores) -> None:
    encoder = world.encoders[0]
    photos = dict(zip((f"{number}.png" for number in range(PHOTOS)), encoder.embed(world.photos(PHOTOS)), strict=True))
    base = Generator(load_family(str(world.base), device="cpu", precision="fp32"))
    control = encoder.embed(
        list(
            base.generate([ImageRequest(prompt, 0) for prompt in PLAIN], Knobs(steps=1, guidance=scores.knobs.guidance))
        )
    )
    for fold in scores.folds:
        generated = encoder.embed(read([run.folder / file for file in fold.images]))
        others = torch.stack([row for name, row in photos.items() if name != fold.photo])
        held_out = photos[fold.photo][None]
        assert len(generated) == len(PROMPTS)
        assert fold.training_similarity == pytest.approx(mean(cosines(generated, others)), abs=1e-6)
        assert fold.held_out_similarity == pytest.approx(mean(cosines(generated, held_out)), abs=1e-6)
        assert fold.base_copying == pytest.approx(
            mean(cosines(control, others)) - mean(cosines(control, held_out)), abs=1e-6
        )
        assert fold.held_out_share == mean(
            [cosines(row[None], held_out)[0] >= max(cosines(row[None], others)) for row in generated]
        )
    expected = [fold.training_similarity - fold.held_out_similarity - (fold.base_copying or 0) for fold in scores.folds]
    assert value(scores, "copying") == pytest.approx(mean(expected), abs=1e-9)


def test_the_base_model_copies_nothing(world: World, run: Run, scores: Scores, tmp_path: Path) -> None:
    """Its own copy scores average to 0, and a fold with the base's images scores 0."""
    assert all(abs(fold.base_copying or 0) > 1e-6 for fold in scores.folds)
    assert mean([fold.base_copying or 0 for fold in scores.folds]) == pytest.approx(0, abs=1e-9)
    files = []
    for number in range(len(PROMPTS)):
        files.append(run.folds / f"of_base_{number}.png")
        noise(64 + number, 64).save(files[-1])
    same = ImageSet(sample_cache=SampleCache(tmp_path), files=tuple(files))
    evaluator = evaluator_of(world, Samples(trained=same, base=same, class_trained=same, class_base=same, weights=""))
    for fold in planned(run).folds:
        assert score_fold(fold, evaluator, same).copying == pytest.approx(0, abs=1e-12)


def evaluator_of(world: World, samples: Samples) -> FoldEvaluator:
    identity, clip = world.encoders
    photos = read_photos([world.folder / "photos"]).photos
    task = EvaluationTask(
        name="",
        base="",
        subject=Subject("sks", "dog"),
        live=True,
        templates=PROMPTS,
        images=1,
        seed=0,
        knobs=Knobs(),
        photos=photos,
        training_photos=photos,
    )
    scorers = Scorers(
        encoders=EncoderPair(identity=identity, clip=clip),
        distance=PatchDistance(encoder=identity),
        segmenter=NoSegmenter(reason="none"),
    )
    never: Any = pytest.fail
    return FoldEvaluator(task=task, samples=samples, scorers=scorers, train_run=never, lend=never)


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_validate_api, "train", lambda *_, **__: pytest.fail("everything is trained already"))
    monkeypatch.setattr(Generator, "generate_batch", lambda *_: pytest.fail("everything is generated already"))
    monkeypatch.setattr(IdentityEncoder, "embed", lambda *_: pytest.fail("everything is embedded already"))


def test_a_second_call_trains_generates_and_embeds_nothing(
    world: World, run: Run, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    assert validated(world, run) == scores
    assert Scores.read(run.scores) == scores


def test_fewer_folds_are_the_first_of_all(
    world: World, run: Run, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    few = validated(world, run, folds=2)
    assert few.folds == scores.folds[:2]
    assert "2 of 3 photos" in few.values["copying"].reason
    assert validated(world, run, folds=3) == scores


@pytest.mark.parametrize(("kind", "nth"), [(StepTrained, 4), (ImageGenerated, 15)])
def test_a_killed_cross_validation_goes_on_to_the_same_scores(
    world: World, run: Run, scores: Scores, tmp_path: Path, kind: type[Event], nth: int
) -> None:
    """Killed after the last step of a fold, or while one generates; finished folds stay."""
    copied = Run(tmp_path / "run")
    shutil.copytree(run.folder, copied.folder, ignore=shutil.ignore_patterns("folds", "evaluation"))
    seen = 0

    def kill(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, kind)
        if seen == nth:
            seen += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validated(world, copied, on_event=kill)
    finished = {path: path.stat().st_mtime_ns for path in copied.folds.glob("*/adapter.safetensors")}
    assert validated(world, copied).model_copy(update={"name": scores.name}) == scores
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_recipe_photos_and_step_decide_which_fold_it_is(world: World, run: Run, tmp_path: Path) -> None:
    """Finished folds are found again by what made them, and by nothing else."""
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    other = Run(tmp_path / "run")
    shutil.copytree(run.folder, other.folder, ignore=shutil.ignore_patterns("folds", "evaluation"))
    recipe = Recipe.read(run.recipe).model_copy(update={"photos": (str(tmp_path / "photos"),)})

    def names(**changes: Any) -> set[str]:
        other.write_text(other.recipe, recipe.model_copy(update=changes).to_toml())
        return {fold.run.folder.name for fold in planned(other).folds}

    before = names()
    assert names() == before
    assert not names(seed=1) & before
    noise(70, 64).save(tmp_path / "photos" / "0.png")  # the photo itself may be held out of one fold alone
    assert len(names() & before) == 1
    noise(64, 64).save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "1.txt").write_text("a {subject} that jumps")
    assert len(names() & before) == 1


def test_photos_with_the_same_pixels_are_one(world: World, run: Run, tmp_path: Path) -> None:
    """A photo is not held out as long as a copy of it is trained on."""
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "0.png", tmp_path / "photos" / "again.png")
    other = Run(tmp_path / "run")
    shutil.copytree(run.folder, other.folder, ignore=shutil.ignore_patterns("folds", "evaluation"))
    other.write_text(
        other.recipe, Recipe.read(run.recipe).model_copy(update={"photos": (str(tmp_path / "photos"),)}).to_toml()
    )
    plan = planned(other)
    assert plan.photos == len(plan.folds) == PHOTOS
    others = {fold.held_out.path.name: {Path(photo).name for photo in fold.recipe.photos} for fold in plan.folds}
    assert others == {
        "0.png": {"1.png", "2.png"},
        "1.png": {"0.png", "2.png", "again.png"},
        "2.png": {"0.png", "1.png", "again.png"},
    }
    assert {len(fold.training_photos) for fold in plan.folds} == {PHOTOS - 1}


def test_a_finished_fold_keeps_its_adapter_and_little_else(run: Run, scores: Scores) -> None:
    assert scores.folds
    for folder in (path for path in run.folds.iterdir() if path.name != "pictures" and path.is_dir()):
        assert (folder / "adapter.safetensors").is_file()
        assert not list(folder.glob("checkpoints")) + list(folder.glob("model*"))


def test_tables_and_page_show_the_folds(run: Run, scores: Scores) -> None:
    table = folds_table(scores)
    assert [row[0] for row in table.rows] == [*(fold.photo for fold in scores.folds), "mean"]
    assert f"{value(scores, 'copying'):.3f}".replace("-0.000", "0.000") in table.rows[-1][table.head.index("copy")]
    assert "cross-validated: 3 of 3 photos" in " ".join(runs_table([scores]).notes)
    [copying] = [row for row in means_table([scores]).rows if row[0] == "copy"]
    assert copying[1] == table.rows[-1][table.head.index("copy")]
    assert "3 held-out photos" in copying[3]
    page = render(scores_page(scores, run.folder))
    assert "Photos held out" in page
    assert all(f"without {fold.photo}" in page for fold in scores.folds)
    assert "nan" not in page.lower().replace("nano", "")[: page.index("data:")]


def test_copying_is_compared_photo_by_photo(scores: Scores) -> None:
    moved = tuple(
        fold.model_copy(update={"training_similarity": fold.training_similarity + 0.1}) for fold in scores.folds
    )
    found = compare_scores([scores.model_copy(update={"folds": moved})], [scores]).differences["copying"].interval
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-9)
    none = compare_scores(
        [scores.model_copy(update={"folds": scores.folds[:1]})], [scores.model_copy(update={"folds": scores.folds[1:]})]
    )
    assert none.differences["copying"].interval is None
    assert "--cross-validate" in none.differences["copying"].reason


def test_scores_without_folds_are_read_as_before(scores: Scores, tmp_path: Path) -> None:
    written = scores.model_dump(mode="json")
    del written["folds"]
    (tmp_path / "scores.json").write_text(json.dumps(written))
    assert Scores.read(tmp_path / "scores.json").folds == ()


def test_a_run_whose_photos_cannot_be_held_out_says_why(world: World, run: Run, tmp_path: Path) -> None:
    alone = validated(world, trained(world, "one_photo", trained_on=1))
    assert alone.values["copying"].value is None
    assert "one photo alone" in alone.values["copying"].reason
    assert not (world.folder / "one_photo" / "folds").exists()
    gift = tmp_path / "gift.safetensors"
    gift.write_bytes(run.adapter.read_bytes())
    assert "without its run's folder" in validated(world, gift).values["copying"].reason


def test_without_a_class_noun_the_base_is_not_compared(world: World) -> None:
    found = validated(world, trained(world, "nameless", class_noun=None), prompts=["a {subject} in the snow"], folds=1)
    [fold] = found.folds
    assert fold.base_copying is None
    assert fold.copying == fold.training_similarity - fold.held_out_similarity
    assert "base" not in found.values["copying"].reason + " ".join(folds_table(found).head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 4}, "4 photos cannot be held out of the 3"),
        ({"folds": 0}, "0 photos cannot be held out"),
        ({"photos": ["photos"]}, "without --photos"),
    ],
    ids=str,
)
def test_user_errors_are_raised_before_anything_is_generated(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Generator, "generate_batch", lambda *_: pytest.fail("nothing may be generated"))
    with pytest.raises(UserError, match=message):
        validated(world, run, **({"seed": 99} | options))


def test_photos_that_are_gone_are_named(world: World, run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "run")
    shutil.copytree(run.folder, other.folder, ignore=shutil.ignore_patterns("folds", "evaluation"))
    other.write_text(
        other.recipe, Recipe.read(run.recipe).model_copy(update={"photos": (str(tmp_path / "gone"),)}).to_toml()
    )
    with pytest.raises(UserError, match=r"gone does not exist; put them back"):
        validated(world, other)


@pytest.mark.slow
def test_a_run_is_more_similar_to_its_training_photos_than_to_a_held_out_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded base: a held-out photo is less similar than the others, but similar."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    held = starter.subjects()["parrot"]
    overrides = ["training.steps=60", "method.rank=4", "prior.count=8", "previews.every=0", "selection.active=false"]
    photos = tuple(str(photo) for photo in held.photos[:3])
    run = train(
        Recipe.preset(photos=photos, class_noun=held.class_noun, overrides=overrides),
        out=tmp_path / "run",
        report=False,
    )
    found = cross_validate(run, prompts=("a {subject} in the snow", "a {subject} on a beach"), images=1)
    assert mean([fold.base_copying or 0 for fold in found.folds]) == pytest.approx(0, abs=1e-9)
    assert value(found, "base_identity") + 0.1 < mean([fold.held_out_similarity for fold in found.folds])
    assert abs(value(found, "copying")) < 0.2
