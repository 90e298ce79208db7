"""What a run is asked to draw before it is scored, and the drawing of it: nothing is drawn twice.

The subject is drawn with the adapter. The untouched base draws the same prompts with the class noun alone, at the same seeds: what it
cannot draw, the subject cannot be blamed for. The base's pictures are kept where all runs on that base find them.

Shape suffixes: B pictures, D width of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.data.photos import Photo, read_photos
from mascot.data.prompt_templates import class_prompt, fill, insert_token, without_token
from mascot.errors import UserError
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import recommended_knobs
from mascot.generation.prompt_sets import PAPER, STARTER, is_live
from mascot.models.starter import is_embedded
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

CLASS_IMAGES = 4
"""Pictures of the class alone, for PRES, times the pictures of each prompt."""


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """What is asked of one run."""

    name: str
    """What the run is called in tables."""
    base: str
    subject: Subject
    live: bool
    templates: tuple[str, ...]
    """Prompts with `{subject}`."""
    images: int
    seed: int
    knobs: Knobs
    photos: tuple[Photo, ...]
    """What likeness is measured on; none where no photo is known."""
    trained: tuple[Photo, ...]
    """What the run learned from; none where that is not known."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.images < 1 or not self.templates:
            raise UserError("there is nothing to draw; give one prompt and one picture of it at least.")
        _ = [fill(template, self.subject) for template in self.templates]  # which refuses unknown placeholders
        nameless = [template for template in self.templates if insert_token(template, self.subject) != template]
        if nameless:
            raise UserError(
                f"the prompt {nameless[0]!r} does not name the subject; write {{subject}} where it belongs."
            )

    @property
    def held_out(self) -> tuple[Photo, ...]:
        """The photos that the run did not learn from; none where it is not known what it learned from."""
        known = {photo_digest(photo) for photo in self.trained}
        return tuple(photo for photo in self.photos if photo_digest(photo) not in known) if known else ()

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The prompts with the token removed; none without a class noun."""
        if self.subject.class_noun is None:
            return ()
        return tuple(fill(without_token(template, self.subject), self.subject) for template in self.templates)

    def requests(self, prompts: Sequence[str]) -> list[ImageRequest]:
        """Each prompt at every seed: picture k has `seed + k`."""
        return [ImageRequest(prompt, self.seed + k) for prompt in prompts for k in range(self.images)]

    @property
    def class_requests(self) -> list[ImageRequest]:
        """The class alone; none without a class noun."""
        noun = self.subject.class_noun
        return (
            []
            if noun is None
            else [ImageRequest(class_prompt(noun), self.seed + k) for k in range(CLASS_IMAGES * self.images)]
        )


def prompts_for(base: str, subject: Subject, *, live: bool | None) -> tuple[tuple[str, ...], bool]:
    """The report's prompts for a subject, and whether it was taken for a live one; by its class noun where `live` is None.

    They are the embedded base's own on that base, and elsewhere the paper's.
    """
    alive = is_live(subject.class_noun) if live is None else live
    return (STARTER if is_embedded(base) else PAPER).for_subject(live=alive), alive


def training_photos(run: Run, *, needed: bool) -> tuple[Photo, ...]:
    """The photos that a run learned from; none where the folder holds no recipe, or where they are gone and not `needed`.

    Raises:
        UserError: they are not where they were.
    """
    if not run.recipe.exists():
        return ()
    recipe = Recipe.read(run.recipe)
    try:
        return read_photos([Path(path) for path in recipe.photos], background=recipe.dataset.background).photos
    except UserError as error:
        if not needed:
            return ()
        what = f"the photos of {run.folder} cannot be read: {str(error).rstrip('.')}"
        raise UserError(f"{what}; put them back where they were, or give others with --photos.") from error


def photo_digest(photo: Photo) -> str:
    """Hash a photo's pixels, upright, 16 hexadecimal digits."""
    return hashlib.sha256(photo.image.tobytes()).hexdigest()[:16]


def plan_task(
    adapter: Adapter, path: Path, *, name: str, prompts: Sequence[str] | None, images: int, seed: int, live: bool | None,
    photos: Sequence[str | Path], base: str | None,
) -> EvaluationTask:  # fmt: skip
    """Say what an adapter is asked to draw, before any weight is loaded."""
    manifest = adapter.manifest
    if manifest is None:
        raise UserError(
            f"{path} does not say what its subject is called; evaluate an adapter that `mascot train` wrote."
        )
    subject = Subject(token=manifest.token, class_noun=manifest.class_noun)
    usual, alive = prompts_for(base or manifest.base, subject, live=live)
    trained = training_photos(Run(path.parent), needed=not photos)
    background = manifest.recipe.get("dataset", {}).get("background", "white")
    return EvaluationTask(
        name=name,
        base=base or manifest.base,
        subject=subject,
        live=alive,
        templates=usual if prompts is None else tuple(prompts),
        images=images,
        seed=seed,
        knobs=recommended_knobs(adapter),
        photos=read_photos([Path(photo) for photo in photos], background=background).photos if photos else trained,
        trained=trained,
    )
