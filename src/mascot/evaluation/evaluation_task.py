"""The task of an evaluation: which prompts, seeds, knobs and photos a run is scored on.

The subject's prompts are generated with the adapter. The base model generates the same prompts with
the class noun alone, at the same seeds. They show what the base cannot generate, for which the
adapter is not to blame. The base's images are cached where all runs on that base find them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mascot.adapters.adapter_file import Adapter
from mascot.data.photos import Photo, read_photos
from mascot.data.prompt_templates import class_prompt, fill, insert_token, without_token
from mascot.errors import UserError
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.live_nouns import is_live
from mascot.generation.loading import recommended_knobs
from mascot.generation.prompt_sets import PAPER, STARTER
from mascot.models.starter import is_embedded
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

CLASS_IMAGES = 4
"""Images of the class alone, for PRES, as a multiple of the images of each prompt."""


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """What one run has to generate, and the photos that it is scored against.

    Raises:
        UserError: there is no prompt or no image, or a prompt has an unknown placeholder or does
            not name the subject.
    """

    name: str
    """The run's name in tables."""
    base: str
    subject: Subject
    live: bool
    """Whether the subject is a live one, which can wear things."""
    templates: tuple[str, ...]
    """Prompts with `{subject}`."""
    images: int
    """Images of each prompt."""
    seed: int
    """Image k of each prompt has `seed + k`."""
    knobs: Knobs
    photos: tuple[Photo, ...]
    """Photos that subject fidelity is measured on; empty where no photo is known."""
    training_photos: tuple[Photo, ...]
    """Photos that the run was trained on; empty where they are not known."""

    def __post_init__(self) -> None:
        """Refuse prompts that cannot be scored."""
        if self.images < 1 or not self.templates:
            raise UserError("there is nothing to generate; give one prompt and one image of it at least.")
        _ = [fill(template, self.subject) for template in self.templates]  # refuses unknown placeholders
        nameless = [template for template in self.templates if insert_token(template, self.subject) != template]
        if nameless:
            raise UserError(
                f"the prompt {nameless[0]!r} does not name the subject; write {{subject}} where it belongs."
            )

    @property
    def held_out(self) -> tuple[Photo, ...]:
        """The photos that the run was not trained on; empty if its training photos are unknown."""
        known = {photo_digest(photo) for photo in self.training_photos}
        return tuple(photo for photo in self.photos if photo_digest(photo) not in known) if known else ()

    @cached_property
    def prompts_without_token(self) -> tuple[str, ...]:
        """The prompts with the class noun alone; empty where the class noun is unknown."""
        if self.subject.class_noun is None:
            return ()
        return tuple(fill(without_token(template, self.subject), self.subject) for template in self.templates)

    def requests(self, prompts: Sequence[str]) -> list[ImageRequest]:
        """Request each prompt at every seed: image k has `seed + k`."""
        return [ImageRequest(prompt, self.seed + k) for prompt in prompts for k in range(self.images)]

    @property
    def class_requests(self) -> list[ImageRequest]:
        """Requests for images of the class alone; empty where the class noun is unknown."""
        noun = self.subject.class_noun
        return (
            []
            if noun is None
            else [ImageRequest(class_prompt(noun), self.seed + k) for k in range(CLASS_IMAGES * self.images)]
        )


def prompts_for(base: str, subject: Subject, *, live: bool | None) -> tuple[tuple[str, ...], bool]:
    """Return the report's prompts for a subject, and whether the subject counts as live.

    Where `live` is None, the class noun decides. The embedded base has prompts of its own; other
    bases get the paper's.
    """
    alive = is_live(subject.class_noun) if live is None else live
    return (STARTER if is_embedded(base) else PAPER).for_subject(live=alive), alive


def read_training_photos(run: Run, *, needed: bool) -> tuple[Photo, ...]:
    """Read the photos that a run was trained on.

    The result is empty where the folder holds no recipe, or where the photos are gone and not
    `needed`.

    Raises:
        UserError: the photos are needed and cannot be read.
    """
    if not run.recipe.exists():
        return ()
    recipe = Recipe.read(run.recipe)
    try:
        paths, settings = [Path(path) for path in recipe.photos], recipe.dataset
        return read_photos(paths, background=settings.background, recursive=settings.recursive).photos
    except UserError as error:
        if not needed:
            return ()
        problem = f"the photos of {run.folder} cannot be read: {str(error).rstrip('.')}"
        raise UserError(f"{problem}; put them back where they were, or give others with --photos.") from error


def photo_digest(photo: Photo) -> str:
    """Hash the pixels of an upright photo, 16 hexadecimal digits."""
    return hashlib.sha256(photo.image.tobytes()).hexdigest()[:16]


def plan_task(
    adapter: Adapter,
    path: Path,
    *,
    name: str,
    prompts: Sequence[str] | None,
    images: int,
    seed: int,
    live: bool | None,
    photos: Sequence[str | Path],
    base: str | None,
) -> EvaluationTask:
    """Plan the evaluation of an adapter, before any weights are loaded.

    Each option replaces what the adapter itself says; None, or no photos, keeps that.

    Raises:
        UserError: the adapter does not name its subject, or photos or prompts cannot be used.
    """
    manifest = adapter.manifest
    if manifest is None:
        raise UserError(f"{path} does not name its subject; evaluate an adapter that `mascot train` wrote.")
    subject = only_subject(manifest.subject, path)
    report_prompts, alive = prompts_for(base or manifest.base, subject, live=live)
    trained = read_training_photos(Run(path.parent), needed=not photos)
    return EvaluationTask(
        name=name,
        base=base or manifest.base,
        subject=subject,
        live=alive,
        templates=report_prompts if prompts is None else tuple(prompts),
        images=images,
        seed=seed,
        knobs=recommended_knobs(adapter),
        photos=_read_given_photos(photos, manifest.recipe) if photos else trained,
        training_photos=trained,
    )


def only_subject(subject: Subject, path: Path) -> Subject:
    """Return the subject of the adapter at `path`, which has just one.

    Raises:
        UserError: it has several.
    """
    if subject.others:
        names = ", ".join(str(one.name) for one in subject.all)
        raise UserError(
            f"{path} holds several subjects ({names}), and scores and diagnoses are of one; look at each with "
            "`mascot generate`, or train one alone to have it scored."
        )
    return subject


def _read_given_photos(photos: Sequence[str | Path], recipe: Mapping[str, Any]) -> tuple[Photo, ...]:
    """Read photos that the user gives, on the background that the recipe names."""
    background = recipe.get("dataset", {}).get("background", "white")
    return read_photos([Path(photo) for photo in photos], background=background).photos
