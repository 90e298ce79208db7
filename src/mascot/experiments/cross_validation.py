"""Cross-validation: train without one photo, and compare the generated images with it.

Similarity to training photos does not separate knowing the subject from memorizing the photos;
similarity to a held-out photo does. A fold is a run of the same recipe on the other photos,
trained to the step that the run kept. Finished folds are never redone.

Shape suffixes: B images, P photos, D width of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from PIL.Image import Resampling
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.data.photos import Photo
from mascot.data.prompt_templates import fill
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, check_interrupted, printable
from mascot.evaluation.evaluation_task import EvaluationTask, photo_digest
from mascot.evaluation.evaluator import Scorers
from mascot.evaluation.metrics.memorization import copy_score, held_out_share
from mascot.evaluation.metrics.subject_fidelity import similarity
from mascot.evaluation.samples import ImageSet, Samples
from mascot.evaluation.scores import FoldScores, Score, Scores
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.generation.sample_cache import SampleCache, weights_name
from mascot.progress import FoldStarted, GenerationStarted, ImageGenerated, OnEvent, ignore
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import read_subject
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run, delete_all_but_adapter

TrainFold = Callable[[Recipe, Path, int, OnEvent], None]
"""Trains a recipe into a folder up to a step, or resumes a run that was started there."""

LendBase = Callable[[Recipe], AbstractContextManager[Family]]
"""Lends a recipe's base, unchanged."""

THUMBNAIL_SIDE = 256
"""Longest side, in pixels, of the copies that are kept of held-out photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A run without one photo."""

    held_out: Photo
    training_photos: tuple[Photo, ...]
    """All other photos; those with the same pixels count once."""
    recipe: Recipe
    step: int
    """The step that training ends at."""
    run: Run
    whole_run: Run
    """The run that has all photos."""

    @property
    def thumbnail(self) -> Path:
        """Path of a small copy of the held-out photo."""
        return self.run.folder / "held_out.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPlan:
    """The folds of a run, or the reason why there are none."""

    folds: tuple[Fold, ...]
    photos: int
    """Number of different photos that the run was trained on."""
    reason_for_none: str = ""
    """Why no photo can be held out; empty if one can."""


def plan_folds(adapter: Adapter, path: Path, *, base: str | None = None, count: int | None = None) -> FoldPlan:
    """Plan one fold for each photo of a run, or for `count` of them.

    The run's seed decides the order, so that more folds extend fewer. `path` is the adapter's
    file; `base` replaces the base that the recipe names. A fold's folder is named by its recipe,
    its last step, and its training photos: pixels, masks and captions. If any of these changes, it
    is another fold.

    Raises:
        UserError: the photos cannot be read, or there are fewer than `count`.
    """
    if adapter.manifest is not None and adapter.manifest.subject.others:
        raise UserError(
            f"{path} holds several subjects, and --cross-validate is of one; evaluate it without, or give --photos "
            "once for each subject, with photos that it was not trained on too."
        )
    run = Run(path.parent)
    if adapter.manifest is None or path != run.adapter or not run.recipe.exists():
        reason = "an adapter without its run's folder cannot be trained again without one of its photos"
        return FoldPlan(folds=(), photos=0, reason_for_none=reason)
    recipe = Recipe.read(run.recipe)
    if recipe.start_from is not None:
        reason = "it started from an adapter, which may have seen every photo"
        return FoldPlan(folds=(), photos=0, reason_for_none=reason)
    recipe = recipe.model_copy(update={"base": base or recipe.base})
    photos = read_run_photos(run, recipe)
    different = without_repeats(photos)
    if count is not None and not 1 <= count <= len(different):
        raise UserError(
            f"{count} photos cannot be held out of the {len(different)} of {run.folder}; give fewer, or all."
        )
    if len(different) < 2:
        reason = "it was trained on one photo alone, which cannot be held out"
        return FoldPlan(folds=(), photos=1, reason_for_none=reason)
    order = sorted(range(len(different)), key=lambda number: seeded(recipe.seed, "folds", number).initial_seed())
    step = adapter.manifest.step
    folds = [make_fold(different[index], photos, run=run, recipe=recipe, step=step) for index in order[:count]]
    return FoldPlan(folds=tuple(folds), photos=len(different))


def read_run_photos(run: Run, recipe: Recipe) -> tuple[Photo, ...]:
    """Read the photos of a run, with their captions.

    Raises:
        UserError: a photo cannot be read any more.
    """
    try:
        return read_subject(recipe).photos
    except UserError as error:
        check_interrupted()
        problem = f"the photos of {run.folder} cannot be read: {str(error).rstrip('.')}"
        raise UserError(f"{problem}; put them back where they were.") from error


def without_repeats(photos: Sequence[Photo]) -> tuple[Photo, ...]:
    """List photos in their order, those with the same pixels once."""
    return tuple({photo_digest(photo): photo for photo in reversed(photos)}.values())[::-1]


def make_fold(held_out: Photo, photos: tuple[Photo, ...], *, run: Run, recipe: Recipe, step: int) -> Fold:
    """Make the fold that holds out one photo, and all photos with the same pixels."""
    others = [photo for photo in photos if photo_digest(photo) != photo_digest(held_out)]
    changes = {
        "photos": tuple(str(photo.path) for photo in others),
        "selection": recipe.selection.model_copy(update={"active": False}),
        "previews": recipe.previews.model_copy(update={"every": 0}),
    }
    own = recipe.model_copy(update=changes)
    facts = [own.to_toml(), step, *((photo_digest(photo), mask_digest(photo), photo.captions) for photo in others)]
    return Fold(
        held_out=held_out,
        training_photos=without_repeats(others),
        recipe=own,
        step=step,
        whole_run=run,
        run=run.fold(hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:12]),
    )


def mask_digest(photo: Photo) -> str:
    """Hash a photo's mask; empty if it has none."""
    return "" if photo.mask is None else hashlib.sha256(photo.mask.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FoldEvaluator:
    """What the folds of a run are trained, generated and scored with."""

    task: EvaluationTask
    """The task of the run itself."""
    samples: Samples
    """The images of the run and of the base model."""
    scorers: Scorers
    train_run: TrainFold
    lend: LendBase
    images: int = 1
    """Images of each prompt by each fold; at most the task's."""

    @cached_property
    def base_embeddings(self) -> Tensor:
        """Embeddings of the base model's images of the same prompts and seeds.

        Shape B x D; no rows without a class noun.
        """
        rows_BD = self.samples.base.embed(self.scorers.encoders.identity)
        return rows_BD[[row for row in range(len(rows_BD)) if row % self.task.images < self.images]]

    def embed(self, photos: Sequence[Photo]) -> Tensor:
        """Embed photos. Shape P x D."""
        cache = self.samples.trained.sample_cache
        return cache.embed_images(self.scorers.encoders.identity, [photo.image for photo in photos])


def evaluate_folds(plan: FoldPlan, evaluator: FoldEvaluator, scores: Scores, on_event: OnEvent = ignore) -> Scores:
    """Train and score the folds of a plan, and add them and the copy score to the run's scores.

    Finished work is kept. Events: `FoldStarted`, those of `train_run`, `GenerationStarted`,
    `ImageGenerated`.

    Raises:
        UserError: a fold cannot be trained or generated.
    """
    results: list[FoldScores] = []
    for number, fold in enumerate(plan.folds, start=1):
        trained = fold.run.adapter.exists()
        photo = printable(fold.held_out.path)
        on_event(FoldStarted(photo=photo, number=number, folds=len(plan.folds), steps=0 if trained else fold.step))
        if not trained:
            evaluator.train_run(fold.recipe, fold.run.folder, fold.step, on_event)
        delete_all_but_adapter(fold.run)
        results.append(score_fold(fold, evaluator, generate_fold_images(fold, evaluator, on_event)))
    copying = average_copying(results, plan)
    return scores.model_copy(update={"values": {**scores.values, "copying": copying}, "folds": tuple(results)})


def generate_fold_images(fold: Fold, evaluator: FoldEvaluator, on_event: OnEvent) -> ImageSet:
    """Generate the task's prompts with a fold, at the task's first seeds and with its knobs."""
    task, cache, files = evaluator.task, SampleCache(fold.whole_run.folds / "pictures"), list[Path]()
    requests = [
        ImageRequest(fill(template, task.subject), task.seed + k)
        for template in task.templates
        for k in range(evaluator.images)
    ]
    on_event(GenerationStarted(images=len(requests)))
    with evaluator.lend(fold.recipe) as family:
        generator = Generator(family, Adapter.read(fold.run.adapter), on_event=on_event)
        for file in cache.images(generator, requests, task.knobs, weights_name(family, fold.run.adapter)):
            on_event(ImageGenerated(path=file))
            files.append(file)
        generator.remove_adapter()
    return ImageSet(sample_cache=cache, files=tuple(files))


def score_fold(fold: Fold, evaluator: FoldEvaluator, images: ImageSet) -> FoldScores:
    """Compare a fold's images with its training photos and with the held-out photo."""
    trained_PD, held_out_1D = evaluator.embed(fold.training_photos), evaluator.embed([fold.held_out])
    generated_BD = images.embed(evaluator.scorers.encoders.identity)
    write_thumbnail(fold)
    folder = fold.whole_run.folder
    return FoldScores(
        photo=printable(fold.held_out.path),
        thumbnail=fold.thumbnail.relative_to(folder).as_posix(),
        step=fold.step,
        training_similarity=similarity(generated_BD, trained_PD),
        held_out_similarity=similarity(generated_BD, held_out_1D),
        held_out_share=held_out_share(generated_BD, trained_PD, held_out_1D),
        base_copying=copy_score(evaluator.base_embeddings, trained_PD, held_out_1D),
        images=tuple(file.relative_to(folder).as_posix() for file in images.files),
    )


def write_thumbnail(fold: Fold) -> None:
    """Write a small copy of the held-out photo, for pages, as the photo itself may be moved."""
    if not fold.thumbnail.exists():
        image = fold.held_out.image.copy()
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Resampling.LANCZOS)
        with atomic_write(fold.thumbnail) as temporary:
            image.save(temporary, format="PNG")


def average_copying(folds: Sequence[FoldScores], plan: FoldPlan) -> Score:
    """Average the copy score over folds, with a note on how it was computed."""
    if plan.reason_for_none:
        return Score(value=None, reason=plan.reason_for_none)
    base = "" if folds[0].base_copying is None else ", minus the copy score of the base model"
    share = fmean(fold.held_out_share for fold in folds)
    note = (
        f"cross-validated: {len(folds)} of {plan.photos} photos were held out, each from a run of {folds[0].step} "
        f"steps on the others{base}; the held-out photo is the nearest to {share:.0%} of the images, "
        f"by chance to {1 / plan.photos:.0%}"
    )
    return Score(value=fmean(fold.copying for fold in folds), reason=note)
