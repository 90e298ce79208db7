"""The contents of a publication: collected from a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import Image
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.registry import Architecture, architecture_of, stated_architecture, write_format
from mascot.adapters.formats.word_files import separate_words
from mascot.adapters.headers.adapter_facts import AdapterFacts, kind_of
from mascot.adapters.headers.hub_facts import LAYERS_FILE
from mascot.adapters.headers.model_spec import LAYERS, WORDS_ALONE
from mascot.adapters.headers.thumbnails import thumbnail
from mascot.adapters.lora_keys import DOWN, MAGNITUDE
from mascot.adapters.token_rows import read_records, rows_of, write_records
from mascot.api.adapters.publication.card import make_card
from mascot.api.adapters.publication.card_usage import PublishedAdapter
from mascot.api.adapters.publication.gallery import generated_images, scored_images
from mascot.api.adapters.publication.privacy import Privacy, public_name
from mascot.api.adapters.publication.written_header import facts_of, header_metadata
from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.evaluation.scores import Scores
from mascot.generation.loading import recommended_knobs
from mascot.methods.registry import method_in
from mascot.models import starter
from mascot.reports.model_card import render_card
from mascot.storage.run_folder import Run

MAIN: Final = "adapter.safetensors"
"""The file that mascot takes from a repository, beside other forms."""
EXAMPLE: Final = "a photo of a {subject} in the snow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All files of a publication, before private words are removed."""

    adapters: Mapping[str, Adapter]
    """File name to content."""
    model: Path | None
    """Folder of a whole pipeline that goes to the top; None where there is none."""
    images: Mapping[str, Image.Image]
    texts: Mapping[str, str]
    privacy: Privacy


def collect(
    run: Run,
    adapter: Adapter,
    path: Path,
    *,
    repository: str,
    license: str | None,  # noqa: A002 - the hub's own word
    base: str | None,
) -> Contents:
    """Collect everything of a finished run; `base` replaces the place of the adapter's base.

    Raises:
        UserError: the adapter, the scores or the diagnosis cannot be read, or images must be
            generated and cannot.
    """
    privacy = Privacy.of(run)
    scores = Scores.read(run.scores) if run.scores.exists() else None
    images = list(scored_images(run, scores)) or list(generated_images(run, adapter, base))
    architecture = architecture_of(adapter.tensors) or stated_architecture(adapter.tensors, adapter.metadata)
    name = repository.partition("/")[2]
    facts = replace(
        facts_of(adapter, path, architecture, name),
        license=license,
        thumbnail=thumbnail(images[0].image) if images else None,
    )
    model = run.model() if run.model().is_dir() else None
    forms = list(weight_files(run, adapter, facts, name))
    published = describe(repository, adapter, facts, forms, is_whole=model is not None)
    card = make_card(run, adapter, published, facts=facts, images=images, scores=scores, files=[n for n, *_ in forms])
    texts = {"README.md": render_card(card)}
    files = {chosen.source: chosen.file for chosen in images if chosen.source}
    if scores is not None:
        texts["scores.json"] = privacy.clean_scores(scores, name, files)
    return Contents(
        adapters={file: content for file, content, *_ in forms},
        model=model,
        images={chosen.file: chosen.image for chosen in images},
        texts=texts,
        privacy=privacy,
    )


Form = tuple[str, Adapter, str]
"""File name, content, and what it is: `main`, `layers`, `kohya`, or a word's token."""


def weight_files(run: Run, adapter: Adapter, facts: AdapterFacts, name: str) -> Iterator[Form]:
    """Yield the adapter's files, each with a header of its own."""
    kind = kind_of(adapter.tensors)
    layers = adapter
    if not kind:
        low_rank = run.companion("low_rank")
        yield MAIN, described(adapter, adapter, facts, "diffusers"), "main"
        if not low_rank.exists():
            return
        layers = Adapter.read(low_rank)
    (tensors, metadata), words = separate_words("diffusers", layers.tensors, layers.metadata)
    if kind == WORDS_ALONE:
        tensors, words = {}, words_alone(adapter)
    several_stages = any(key.startswith("stage") for key in layers.tensors)
    main_is_layers = kind == LAYERS and not words and not several_stages
    if kind and not main_is_layers:
        yield MAIN, described(adapter, adapter, facts, "diffusers"), "main"
    if tensors and not several_stages:
        own = replace(layers, tensors=tensors, metadata=metadata)
        if own.manifest is not None and words:
            own = replace(own, manifest=own.manifest.model_copy(update={"method": method_in(tensors)}))
        yield LAYERS_FILE, described(own, own, facts, "diffusers"), "main layers" if main_is_layers else "layers"
        yield from kohya_file(own, facts, kohya_name(name, words))
    for token, (rows, record) in words.items():
        manifest = adapter.manifest and adapter.manifest.model_copy(update={"method": method_in(rows)})
        word = Adapter(tensors=rows, metadata=record, manifest=manifest)
        yield f"{token.replace('/', '_')}.safetensors", described(word, word, facts, "diffusers"), token


def words_alone(adapter: Adapter) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Split an adapter of words alone: token to tensors and metadata of a file of its own."""
    records = read_records(adapter.metadata)
    return {
        record.token: (
            rows_of(record.token, adapter.tensors) if len(records) > 1 else dict(adapter.tensors),
            write_records([record]),
        )
        for record in records
    }


def kohya_name(name: str, tokens: Iterable[str]) -> str:
    """Name kohya's file as the repository is named, unless another of its files is called so."""
    taken = {Path(MAIN).stem, Path(LAYERS_FILE).stem, *tokens}
    return f"{name}_lora" if name.lower() in {other.lower() for other in taken} else name


def kohya_file(adapter: Adapter, facts: AdapterFacts, name: str) -> Iterator[Form]:
    """Yield the layers in kohya's form under a name, where it has a name for each."""
    architecture: Architecture | None = facts.architecture  # pyright: ignore[reportAssignmentType]
    if architecture is None:
        return
    try:
        tensors, metadata = write_format("kohya", adapter.tensors, adapter.metadata, architecture)
    except UserError:
        return
    other = Adapter(tensors=tensors, metadata=metadata, manifest=adapter.manifest)
    yield f"{name}.safetensors", described(other, adapter, replace(facts, output_name=name), "kohya"), "kohya"


def described(written: Adapter, own: Adapter, facts: AdapterFacts, to: str) -> Adapter:
    """Give a file its header; `own` has the tensors in our own form."""
    return replace(written, metadata=header_metadata(own, facts, written.metadata, to=to, private=False))


def describe(
    repository: str, adapter: Adapter, facts: AdapterFacts, forms: Sequence[Form], *, is_whole: bool
) -> PublishedAdapter:
    """Tell what tools must know."""
    assert adapter.manifest is not None, "a run's adapter has a manifest"
    manifest = adapter.manifest
    base = public_name(manifest.base)
    layers = next((content for file, content, _ in forms if file == LAYERS_FILE), None)
    words = tuple(
        (what, file, tuple(content.tensors)) for file, content, what in forms if what.split()[0] not in OWN_FORMS
    )
    return PublishedAdapter(
        repository=repository,
        base=base,
        is_public=starter.is_embedded(manifest.base) or (base == manifest.base and "/" in base),
        architecture=facts.architecture,
        prompt=fill(EXAMPLE, manifest.subject),
        token=manifest.token,
        knobs=recommended_knobs(adapter),
        size=manifest.resolution,
        main=next((file for file, _, what in forms if what.startswith("main")), MAIN),
        layers=LAYERS_FILE if layers is not None and reads(layers) else None,
        kohya=next((file for file, _, what in forms if what == "kohya"), None),
        words=words,
        is_whole=is_whole,
        parts=frozenset(key.partition(".")[0] for key in layers.tensors) if layers is not None else frozenset(),
    )


OWN_FORMS: Final = frozenset({"main", "layers", "kohya"})


def reads(layers: Adapter) -> bool:
    """Tell whether diffusers reads layers as they are: no products, no DoRA of a text encoder."""
    text = any(key.startswith("text_encoder") and key.endswith(MAGNITUDE) for key in layers.tensors)
    return any(key.endswith(DOWN) for key in layers.tensors) and not text
