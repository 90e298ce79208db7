"""Generate images on a base that stays loaded, each with its settings and its scores."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from pydantic import ValidationError
from torch import nn

from mascot.data.photos import read_photos
from mascot.data.prompt_templates import without_token
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import similarity
from mascot.experiments.base_pool import snapshot
from mascot.generation.generator import fit_start
from mascot.generation.knob_checks import check_stack_knobs
from mascot.generation.knobs import Knobs, settings_text
from mascot.generation.loading import (
    base_of,
    open_stack,
    open_stack_generator,
    plan_requests,
    recommended_knobs,
    resolve_adapter,
    stack_knobs,
)
from mascot.generation.prompts.prompt_reading import check_prompts
from mascot.generation.stack.adapter_sources import AdapterSource
from mascot.generation.stack.stacked_adapter import Stack, describe_adapters
from mascot.generation.start_image import read_source_image
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.families.registry import Precision, load_family
from mascot.progress import OnEvent, ignore
from mascot.protocols import Family, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingRequest:
    """What is generated; all that is not given is as training recommends."""

    sources: tuple[AdapterSource, ...]
    prompts: tuple[str, ...]
    changes: Mapping[str, float | str] = field(default_factory=dict[str, float | str])
    """Knobs that replace the recommended ones."""
    count: int = 1
    """Images of each prompt."""
    seed: int = 0
    base: str | None = None
    image: Path | None = None
    """An image to start from."""
    mask: Path | None = None
    """White where that image is redrawn."""
    strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnImage:
    """One image, and what made it."""

    image: Image.Image
    prompt: str
    seed: int
    knobs: Knobs
    text: str
    """All settings, as the PNG of `mascot generate` holds them."""


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A loaded base, and a snapshot of its denoisers before anyone used it."""

    key: tuple[str, str, str, str]
    family: Family
    denoisers: tuple[nn.Module, ...]
    original: tuple[object, ...]


class Drawer:
    """Generates images for one request after the other; threads wait for each other.

    The last base stays loaded as long as it comes back unchanged, as in `experiments/base_pool.py`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: LoadedBase | None = None
        self.encoders: dict[str, EncoderPair] = {}

    def load(self, base: str, *, device: str, precision: Precision, reading: BaseReading | None = None) -> Family:
        """Load a base, or return the one that is loaded.

        Raises:
            UserError: see `load_family`.
        """
        key = (base, device, precision, repr(reading))
        if self.kept is None or self.kept.key != key:
            self.kept = None  # out of memory before the next one is loaded
            family = load_family(base, device=device, precision=precision, reading=reading)
            denoisers = tuple(stage.parts[stage.denoiser] for stage in family.stages)
            self.kept = LoadedBase(key, family, denoisers, snapshot(denoisers))
        return self.kept.family

    def release(self) -> None:
        """Forget the base if it was left changed, and its text encoders in any case."""
        kept, self.kept = self.kept, None
        if kept is None:
            return
        for stage in kept.family.stages:
            stage.release_encoders(text=True)
        if snapshot(kept.denoisers) == kept.original:
            self.kept = kept

    def draw(self, request: DrawingRequest, on_event: OnEvent = ignore) -> list[DrawnImage]:
        """Generate the images of a request, in order.

        Raises:
            UserError: see `api.generate.generate`.
        """
        with self.lock:
            return list(self.generate(request, on_event))

    def generate(self, request: DrawingRequest, on_event: OnEvent) -> Iterator[DrawnImage]:
        """Generate the images of a request; the caller holds the lock, and takes all of them."""
        source_image = read_source_image(request.image, mask=request.mask, strength=request.strength, write=str)
        stack = open_stack(request.sources, on_event)
        knobs = change_knobs(stack_knobs(stack), request.changes)
        check_stack_knobs(stack, request.changes, knobs, base=request.base, write=str)
        requests = plan_requests(stack, request.prompts, count=request.count, seed=request.seed)
        check_prompts([*(one.prompt for one in requests), knobs.negative], request.base or base_of(stack))
        try:
            generator, name = open_stack_generator(stack, base=request.base, on_event=on_event, load=self.load)
            start, knobs = fit_start(
                source_image, generator, generator.with_defaults(knobs), sized="width" in request.changes
            )
            adapter, started = describe_adapters(stack, knobs), start.facts if start else {}
            for one, image in zip(requests, generator.generate(requests, knobs, start), strict=True):
                facts = {**generator.reading(one.prompt, knobs).facts, **started}
                text = settings_text(one, knobs, generator.size(knobs), name, adapter, facts=facts)
                yield DrawnImage(image=image, prompt=one.prompt, seed=one.seed, knobs=knobs, text=text)
            generator.remove_adapter()
        finally:
            self.release()

    def encoders_of(self, base: str) -> EncoderPair:
        """Load the encoders that score images of a base; those of the last base stay loaded."""
        if base not in self.encoders:
            self.encoders = {base: load_encoders(base)}
        return self.encoders[base]

    def measure(self, drawn: Sequence[DrawnImage], photos: Sequence[Path], subject: Subject, base: str) -> list[Scored]:
        """Measure images by the encoders of a base: likeness to photos, and prompt fidelity.

        Raises:
            UserError: an encoder or a photo cannot be read.
        """
        with self.lock:
            encoders = self.encoders_of(base)
            images = [one.image for one in drawn]
            prompts_BD = encoders.clip.embed_prompts([spoken(one.prompt, subject) for one in drawn])
            fidelity_BD, embedded_BD = encoders.clip.embed(images), encoders.identity.embed(images)
            real_BD = None
            if photos:
                real_BD = encoders.identity.embed([photo.image for photo in read_photos(photos).photos])
        return [
            Scored(
                likeness=None if real_BD is None else similarity(embedded_BD[i : i + 1], real_BD),
                prompt=prompt_fidelity(fidelity_BD[i : i + 1], prompts_BD[i : i + 1]),
            )
            for i in range(len(images))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of one image, as cosines."""

    likeness: float | None
    """Mean cosine to the photos, by the identity encoder; None without photos."""
    prompt: float
    """CLIP-T, without the token."""


def change_knobs(recommended: Knobs, changes: Mapping[str, float | str]) -> Knobs:
    """Return knobs with some of them changed.

    Raises:
        UserError: a value is out of its range.
    """
    try:
        return Knobs.model_validate(recommended.model_dump() | dict(changes))
    except ValidationError as error:
        raise UserError("; ".join(f"{m['loc'][0]} {m['input']}: {m['msg']}" for m in error.errors()) + ".") from None


def recommended_for(source: AdapterSource) -> Knobs:
    """Return the knobs that training recommends for one adapter.

    Raises:
        UserError: the adapter cannot be read.
    """
    return recommended_knobs(resolve_adapter(source.file())[0])


def subject_of(stack: Stack) -> Subject:
    """Return the subject of the first adapter that names one; without any its token is empty."""
    manifest = next((one.adapter.manifest for one in stack if one.adapter.manifest is not None), None)
    return Subject(token=manifest.token, class_noun=manifest.class_noun) if manifest else Subject(token="")


def spoken(prompt: str, subject: Subject) -> str:
    """Return a prompt without the token, which CLIP has never seen."""
    return without_token(prompt, subject) if subject.token else prompt
