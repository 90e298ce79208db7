"""The model card of a run: what was trained, how good it is, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.headers.adapter_facts import AdapterFacts, kind_of
from mascot.adapters.headers.hub_facts import hub_tags
from mascot.api.adapters.publication.card_usage import PublishedAdapter, file_words, usages
from mascot.api.adapters.publication.gallery import Chosen
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.scores import METRICS, Scores
from mascot.reports.model_card import CardImage, ModelCard
from mascot.storage.run_folder import Run

SHOWN: Final = ("identity", "clip_i", "clip_t", "diversity", "drift", "copying")
"""Scores on the card."""


def make_card(
    run: Run,
    adapter: Adapter,
    published: PublishedAdapter,
    *,
    facts: AdapterFacts,
    images: Sequence[Chosen],
    scores: Scores | None,
    files: Sequence[str],
) -> ModelCard:
    """Write down everything for the card; `files` are those with weights."""
    assert adapter.manifest is not None, "a run's adapter has a manifest"
    words = " and ".join(subject.words for subject in adapter.manifest.subject.all)
    diagnosis = Diagnosis.read(run.diagnosis) if run.diagnosis.exists() else None
    return ModelCard(
        title=f"{words}, on {published.base}",
        summary=f"An adapter of {published.base} that shows {words}, trained with mascot.",
        trigger=", ".join(facts.triggers) or words,
        license=facts.license,
        base_model=published.base if published.is_public and "/" in published.base else None,
        tags=hub_tags(facts.architecture, kind_of(adapter.tensors)),
        images=tuple(CardImage(chosen.request.prompt, chosen.file) for chosen in images),
        usages=usages(published),
        files=tuple((name, file_words(name, published)) for name in files),
        facts=tuple(training_facts(adapter, facts, published)),
        scores=tuple(shown_scores(scores)) if scores is not None else (),
        verdict=diagnosis.verdict if diagnosis is not None else "",
        findings=tuple((finding.title, finding.message) for finding in diagnosis.findings) if diagnosis else (),
        limits=tuple(limits(published)),
    )


def training_facts(adapter: Adapter, facts: AdapterFacts, published: PublishedAdapter) -> Iterator[tuple[str, str]]:
    """Yield the settings of the training that readers ask for."""
    assert adapter.manifest is not None, "a run's adapter has a manifest"
    recipe, knobs = adapter.manifest.recipe, published.knobs
    yield "base", published.base
    yield "steps", str(adapter.manifest.step)
    yield "photos", str(sum(facts.triggers.values()) or "not known")
    yield "resolution", f"{published.size} pixels"
    for name, value in recipe.get("method", {}).items():
        if isinstance(value, str | int | float) and value is not False:
            yield f"method.{name}", str(value)
    yield "recommended", f"{knobs.steps} steps, guidance scale {knobs.guidance:g}, scales {scales_text(published)}"


def scales_text(published: PublishedAdapter) -> str:
    """Write the recommended strengths."""
    return f"{published.knobs.unet_scale:g} (denoiser) and {published.knobs.text_scale:g} (text encoders)"


def shown_scores(scores: Scores) -> Iterator[tuple[str, str, str]]:
    """Yield title, value and meaning of each score that has a value."""
    for name in SHOWN:
        value = scores.values[name].value
        if value is not None:
            yield METRICS[name].title, f"{value:.3f}", METRICS[name].description


def limits(published: PublishedAdapter) -> Iterator[str]:
    """Yield what a reader must know before using the adapter."""
    yield f"It is for {published.base} alone, and for bases that were trained on from it."
    yield "It learned from a handful of photos: poses and places that they do not show are guesses."
    yield "The license of the base holds for it too."
    if published.layers is None and published.parts:
        yield "diffusers does not read layers of this kind; mascot does."
