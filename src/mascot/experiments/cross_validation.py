"""Cross-validation: runs like a given one, each without one of its photos, and how near they draw to the photo that they never saw.

Likeness to photos that a run learned from cannot tell knowing the subject from knowing the photos; likeness to a photo that was held out
can. A fold is a run of the same recipe on the other photos, trained to the step that the run kept. Finished folds are never redone.

Shape suffixes: B pictures, T photos that a fold learned from, D width of an embedding.
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
from mascot.errors import UserError, printable
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
from mascot.storage.run_folder import Run

TrainFold = Callable[[Recipe, Path, int, OnEvent], None]
"""Trains a recipe into a folder up to a step, or goes on with a run that was begun there."""


LendBase = Callable[[Recipe], AbstractContextManager[Family]]
"""Gives a recipe's base, untouched."""


SHOWN_SIDE = 256
"""Longest side, in pixels, of the copies that are kept of photos held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A run without one photo."""

    held_out: Photo
    learned: tuple[Photo, ...]
    """All others; photos with the same pixels count once."""
    recipe: Recipe
    step: int
    """Where training ends."""
    run: Run
    home: Run
    """The run that has all photos."""

    @property
    def shown(self) -> Path:
        """A small copy of the photo that was held out."""
        return self.run.folder / "held_out.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPlan:
    """What is held out."""

    folds: tuple[Fold, ...]
    photos: int
    """Different photos that the run learned from."""
    why_not: str = ""
    """Why nothing can be held out, where nothing can."""


def plan_folds(adapter: Adapter, path: Path, *, base: str | None = None, count: int | None = None) -> FoldPlan:
    """Leave out each of a run's photos in turn, or `count` of them: the first in an order that its seed decides, so that more add to fewer.

    `path` is the adapter's file, `base` another place of its base. A fold's folder is named by its recipe, its last step, and what it
    learns from: pixels, masks and captions. Where any of these has changed, the fold is another one.

    Raises:
        UserError: the photos cannot be read, or there are fewer than `count`.
    """
    run = Run(path.parent)
    if adapter.manifest is None or path != run.adapter or not run.recipe.exists():
        return FoldPlan(
            folds=(),
            photos=0,
            why_not="an adapter without its run's folder cannot be trained again without one of its photos",
        )
    recipe = Recipe.read(run.recipe)
    recipe = recipe.model_copy(update={"base": base or recipe.base})
    try:
        photos = read_subject(recipe).photos
    except UserError as error:
        raise UserError(
            f"the photos of {run.folder} cannot be read: {str(error).rstrip('.')}; put them back where they were."
        ) from error
    different = without_repeats(photos)
    if count is not None and not 1 <= count <= len(different):
        raise UserError(
            f"{count} photos cannot be held out of the {len(different)} that {run.folder} learned from; give fewer, or all."
        )
    if len(different) < 2:
        return FoldPlan(folds=(), photos=1, why_not="it learned from one photo alone, which cannot be held out")
    order = sorted(range(len(different)), key=lambda number: seeded(recipe.seed, "folds", number).initial_seed())
    step = adapter.manifest.step
    folds = tuple(
        fold_without(different[number], photos, run=run, recipe=recipe, step=step) for number in order[:count]
    )
    return FoldPlan(folds=folds, photos=len(different))


def without_repeats(photos: Sequence[Photo]) -> tuple[Photo, ...]:
    """The photos in their order, those with the same pixels once."""
    return tuple({photo_digest(photo): photo for photo in reversed(photos)}.values())[::-1]


def fold_without(held_out: Photo, photos: tuple[Photo, ...], *, run: Run, recipe: Recipe, step: int) -> Fold:
    """The fold that does not know one photo, nor any with the same pixels."""
    others = [photo for photo in photos if photo_digest(photo) != photo_digest(held_out)]
    own = recipe.model_copy(
        update={
            "photos": tuple(str(photo.path) for photo in others),
            "selection": recipe.selection.model_copy(update={"active": False}),
            "previews": recipe.previews.model_copy(update={"every": 0}),
        }
    )
    facts = [own.to_toml(), step, *((photo_digest(photo), mask_digest(photo), photo.captions) for photo in others)]
    return Fold(
        held_out=held_out,
        learned=without_repeats(others),
        recipe=own,
        step=step,
        home=run,
        run=run.fold(hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:12]),
    )


def mask_digest(photo: Photo) -> str:
    """Hash a photo's mask; nothing where it has none."""
    return "" if photo.mask is None else hashlib.sha256(photo.mask.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FoldEvaluator:
    """What every fold of a run is trained, drawn and scored with."""

    task: EvaluationTask
    """What the run itself was asked."""
    samples: Samples
    """What it and the untouched base drew."""
    scorers: Scorers
    train_run: TrainFold
    lend: LendBase
    each: int = 1
    """Pictures of each prompt by each fold; no more than the task's."""

    @cached_property
    def control(self) -> Tensor:
        """The untouched base's pictures of the same prompts and seeds, embedded. Shape B x D; no rows without a class noun."""
        rows_BD = self.samples.base.embed(self.scorers.encoders.identity)
        return rows_BD[[row for row in range(len(rows_BD)) if row % self.task.images < self.each]]

    def embed(self, photos: Sequence[Photo]) -> Tensor:
        """Embed photos. Shape P x D."""
        return self.samples.trained.sample_cache.embed_images(
            self.scorers.encoders.identity, [photo.image for photo in photos]
        )


def evaluate_folds(plan: FoldPlan, evaluator: FoldEvaluator, scores: Scores, on_event: OnEvent = ignore) -> Scores:
    """Train what is not trained of a plan, draw what is not drawn, and put what came of it into the run's scores.

    Events: `FoldStarted`, those of `train_run`, `GenerationStarted`, `ImageGenerated`.

    Raises:
        UserError: a fold cannot be trained or drawn.
    """
    found: list[FoldScores] = []
    for number, fold in enumerate(plan.folds, start=1):
        trained = fold.run.adapter.exists()
        photo = printable(fold.held_out.path)
        on_event(FoldStarted(photo=photo, number=number, folds=len(plan.folds), steps=0 if trained else fold.step))
        if not trained:
            evaluator.train_run(fold.recipe, fold.run.folder, fold.step, on_event)
        fold.run.forget_all_but_the_adapter()
        images = draw_fold(fold, evaluator, on_event)
        found.append(score_fold(fold, evaluator, images))
    copying = Score(value=None, reason=plan.why_not) if plan.why_not else summary(found, plan.photos)
    return scores.model_copy(update={"values": {**scores.values, "copying": copying}, "folds": tuple(found)})


def draw_fold(fold: Fold, evaluator: FoldEvaluator, on_event: OnEvent) -> ImageSet:
    """Draw the task's prompts with a fold, at the task's first seeds and with its knobs."""
    task, sample_cache, files = evaluator.task, SampleCache(fold.home.folds / "pictures"), list[Path]()
    requests = [
        ImageRequest(fill(template, task.subject), task.seed + k)
        for template in task.templates
        for k in range(evaluator.each)
    ]
    on_event(GenerationStarted(images=len(requests)))
    with evaluator.lend(fold.recipe) as family:
        generator = Generator(family, Adapter.read(fold.run.adapter))
        for file in sample_cache.images(generator, requests, task.knobs, weights_name(family, fold.run.adapter)):
            on_event(ImageGenerated(path=file))
            files.append(file)
        generator.remove_adapter()
    return ImageSet(sample_cache=sample_cache, files=tuple(files))


def score_fold(fold: Fold, evaluator: FoldEvaluator, images: ImageSet) -> FoldScores:
    """Hold what a fold drew against the photos that it learned from, and against the one that it never saw."""
    learned_TD, held_out_1D = evaluator.embed(fold.learned), evaluator.embed([fold.held_out])
    generated_BD = images.embed(evaluator.scorers.encoders.identity)
    keep_shown(fold)
    return FoldScores(
        photo=printable(fold.held_out.path),
        shown=fold.shown.relative_to(fold.home.folder).as_posix(),
        step=fold.step,
        likeness=similarity(generated_BD, learned_TD),
        generalisation=similarity(generated_BD, held_out_1D),
        nearest=held_out_share(generated_BD, learned_TD, held_out_1D),
        base_copying=copy_score(evaluator.control, learned_TD, held_out_1D),
        images=tuple(file.relative_to(fold.home.folder).as_posix() for file in images.files),
    )


def keep_shown(fold: Fold) -> None:
    """Keep a small copy of the photo that was held out, for pages: the photo itself may be moved."""
    if not fold.shown.exists():
        image = fold.held_out.image.copy()
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Resampling.LANCZOS)
        with atomic_write(fold.shown) as temporary:
            image.save(temporary, format="PNG")


def summary(folds: Sequence[FoldScores], photos: int) -> Score:
    """The copy score over folds, which says how it came about; `photos` is how many could be held out."""
    less = "" if folds[0].base_copying is None else ", less the untouched base's of each"
    said = (
        f"cross-validated: {len(folds)} of {photos} photos were held out, each from a run of {folds[0].step} steps on the others{less}; "
        f"the photo held out is the nearest to {fmean(fold.nearest for fold in folds):.0%} of the drawings, by chance to {1 / photos:.0%}"
    )
    return Score(value=fmean(fold.copying for fold in folds), reason=said)
