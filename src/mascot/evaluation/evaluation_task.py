"""The task of an evaluation: which prompts, seeds, knobs and photos a run is scored on.

Where an adapter has several subjects, each has a task of its own, and a joint one has the prompts
that name them all. The subject's prompts are generated with the adapter. The base model generates
the same prompts with the class noun alone, at the same seeds. They show what the base cannot
generate, for which the adapter is not to blame. The base's images are cached where all runs on that
base find them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.data.photos import Photo, read_photos
from mascot.data.prompt_templates import (
    PLACEHOLDERS,
    class_prompt,
    fill,
    insert_token,
    names_subject,
    placeholders,
    without_token,
)
from mascot.errors import UserError
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import recommended_knobs
from mascot.generation.prompts.live_nouns import is_live
from mascot.generation.prompts.prompt_sets import PAPER, STARTER, together_prompts
from mascot.generation.prompts.prompt_weights import parse_prompt
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
    other_photos: Mapping[str, tuple[Photo, ...]] = field(default_factory=dict[str, "tuple[Photo, ...]"])
    """Photos of the subjects that are trained together with it, by name."""
    joint: bool = False
    """Whether each prompt names all subjects that are trained together."""

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
        named = self.subject.all if self.joint else (self.subject,)
        if any(one.class_noun is None for one in named):
            return ()
        return tuple(fill(without_token(template, self.subject), self.subject) for template in self.templates)

    @cached_property
    def clip_prompts(self) -> tuple[str, ...]:
        """The prompts without the token as CLIP reads them: without weights."""
        return tuple(parse_prompt(prompt).text for prompt in self.prompts_without_token)

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


def report_prompts(base: str, subject: Subject, *, live: bool | None) -> tuple[str, ...]:
    """Return the report's prompts for a subject."""
    return prompts_for(base, subject, live=live)[0]


def read_training_photos(run: Run, subjects: Sequence[Subject], *, needed: bool) -> tuple[tuple[Photo, ...], ...]:
    """Read the photos that a run was trained on, a group for each of `subjects`.

    The groups are empty where the folder holds no recipe of these subjects, or where the photos are
    gone and not `needed`. An adapter of one word of several has the photos of its subject.

    Raises:
        UserError: the photos are needed and cannot be read.
    """
    unknown: tuple[tuple[Photo, ...], ...] = ((),) * len(subjects)
    if not run.recipe.exists():
        return unknown
    recipe = Recipe.read(run.recipe)
    groups = dict(zip(recipe.subjects.names or (None,), recipe.subjects.photo_groups, strict=True))
    if any(one.name not in groups for one in subjects):
        return unknown
    settings = recipe.dataset
    try:
        return tuple(
            read_photos(
                [Path(path) for path in groups[one.name]], background=settings.background, recursive=settings.recursive
            ).photos
            for one in subjects
        )
    except UserError as error:
        if not needed:
            return unknown
        problem = f"the photos of {run.folder} cannot be read: {str(error).rstrip('.')}"
        raise UserError(f"{problem}; put them back where they were, or give others with --photos.") from error


def photo_digest(photo: Photo) -> str:
    """Hash the pixels of an upright photo, 16 hexadecimal digits."""
    return hashlib.sha256(photo.image.tobytes()).hexdigest()[:16]


def plan_tasks(
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
    own_prompts: Callable[[Subject], Sequence[str]] | None = None,
) -> tuple[EvaluationTask, ...]:
    """Plan the evaluation of an adapter, a task for each subject, before any weights are loaded.

    None, or no photos, keeps what the adapter says. `own_prompts` chooses a subject's prompts.

    Raises:
        UserError: the adapter does not name its subject, or photos or prompts cannot be used.
    """
    manifest = manifest_of(adapter, path)
    used, subjects = base or manifest.base, manifest.subject.all
    measured, trained = read_photo_groups(path, manifest, photos)
    asked = own_prompts or partial(report_prompts, used, live=live)
    return tuple(
        EvaluationTask(
            name=name,
            base=used,
            subject=one,
            live=is_live(one.class_noun) if live is None else live,
            templates=tuple(asked(one)) if prompts is None else prompts_about(prompts, one),
            images=images,
            seed=seed,
            knobs=recommended_knobs(adapter),
            photos=measured[number],
            training_photos=trained[number],
            other_photos={str(other.name): measured[k] for k, other in enumerate(subjects) if k != number},
        )
        for number, one in enumerate(subjects)
    )


def manifest_of(adapter: Adapter, path: Path) -> Manifest:
    """Return the manifest of the adapter at `path`.

    Raises:
        UserError: it has none.
    """
    if adapter.manifest is None:
        raise UserError(f"{path} does not name its subject; evaluate an adapter that `mascot train` wrote.")
    return adapter.manifest


def read_photo_groups(
    path: Path, manifest: Manifest, photos: Sequence[str | Path]
) -> tuple[Sequence[tuple[Photo, ...]], Sequence[tuple[Photo, ...]]]:
    """Read the photos that each subject is compared with, and those that it was trained on.

    Raises:
        UserError: they cannot be read, or `photos` are not given for each subject.
    """
    trained = read_training_photos(Run(path.parent), manifest.subject.all, needed=not photos)
    return _read_given_photos(photos, manifest.recipe, manifest.subject) if photos else trained, trained


def plan_joint_task(tasks: Sequence[EvaluationTask], prompts: Sequence[str] | None) -> EvaluationTask | None:
    """Plan the images of all subjects together; None where there is one, or no prompt names all.

    `tasks` are those of the subjects; without `prompts` there are some of mascot's own.

    Raises:
        UserError: a prompt has an unknown placeholder.
    """
    first = tasks[0]
    if not first.subject.others:
        return None
    asked = together_prompts(first.subject) if prompts is None else prompts
    templates = tuple(prompt for prompt in asked if names_all(prompt, first.subject))
    return replace(first, templates=templates, joint=True) if templates else None


def prompts_about(prompts: Sequence[str], subject: Subject) -> tuple[str, ...]:
    """Select the prompts about a subject alone; they are all where it has no others.

    Raises:
        UserError: a prompt is about some of several subjects, or none is about this one.
    """
    if not subject.others:
        return tuple(prompts)
    selected: list[str] = []
    for prompt in prompts:
        named = [one.name for one in subject.all if names_alone(prompt, one)]
        stands_for_each = bool(placeholders(prompt) & set(PLACEHOLDERS))
        if named and (stands_for_each or 1 < len(named) < len(subject.all)):
            listed = ", ".join(f"{{{one.name}}}" for one in subject.all)
            raise UserError(
                f"the prompt {prompt!r} is about some of several subjects; for scores, write {{subject}} alone, one "
                f"of the names ({listed}) or all of them."
            )
        if not named or named == [subject.name]:
            selected.append(prompt)
    if not selected:
        raise UserError(
            f"no prompt is about {subject.name} alone; add one with {{{subject.name}}}, or with {{subject}}, which "
            "stands for each subject."
        )
    return tuple(selected)


def names_all(prompt: str, subject: Subject) -> bool:
    """Tell whether a prompt names all subjects that are trained together, each by itself."""
    return all(names_alone(prompt, one) for one in subject.all)


def names_alone(prompt: str, subject: Subject) -> bool:
    """Tell whether a prompt names one of several subjects by its name or its token."""
    spoken = prompt.replace("{subject}", "").replace("{token}", "")
    return names_subject(spoken, subject)


def _read_given_photos(
    photos: Sequence[str | Path], recipe: Mapping[str, Any], subject: Subject
) -> tuple[tuple[Photo, ...], ...]:
    """Read photos that the user gives, on the background that the recipe names, by subject.

    Raises:
        UserError: they cannot be read, or several subjects have not as many folders of them.
    """
    paths, background = [Path(photo) for photo in photos], recipe.get("dataset", {}).get("background", "white")
    groups = [[path] for path in paths] if subject.others else [paths]
    if len(groups) != len(subject.all):
        names = ", ".join(str(one.name) for one in subject.all)
        raise UserError(
            f"--photos are needed once for each subject, in this order: {names}; they are given for {len(groups)} of "
            f"{len(subject.all)}."
        )
    return tuple(read_photos(group, background=background).photos for group in groups)
