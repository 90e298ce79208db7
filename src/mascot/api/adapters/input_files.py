"""The adapters that a verb reads, and the file that it writes."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from mascot.adapters.adapter_file import Adapter, Manifest, SubjectRecord
from mascot.adapters.formats.layer_settings import read_own
from mascot.adapters.formats.registry import FORMATS, architecture_of, stated_architecture, write_format
from mascot.adapters.weight_changes.merging import Kernels, ScaledAdapter, needs_kernels
from mascot.api.adapters.publication.written_header import facts_of, header_metadata
from mascot.data.prompt_templates import PLACEHOLDERS
from mascot.errors import UserError, list_some, suggest
from mascot.generation.loading import resolve_adapter
from mascot.generation.stack.adapter_sources import AdapterSource, name_of, read_source
from mascot.methods.registry import method_holding
from mascot.models.base_files.weight_places import locate_weights, plain_name
from mascot.models.families.base_source import is_hub_id, source_of
from mascot.storage.atomic_write import check_free as check_new
from mascot.storage.run_folder import Run

Source = str | Path | Run | AdapterSource
"""`[NAME=]PATH[:SCALE[:TEXT_SCALE]]`, a run, or what was read from such a text."""
OWN: Final = FORMATS[0]
"""Name of our own format, which is diffusers'."""
FILES: Final = tuple(name for name in FORMATS if name != "peft")
"""Formats of one file; that of peft is a folder."""
ENDING: Final = ".safetensors"
EFFICIENCY: Final = 0.3
"""Operations a second of decompositions, over those of a product of matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputAdapter:
    """One adapter that a verb reads."""

    name: str
    """Its name in prompts and messages."""
    path: Path
    adapter: Adapter
    scales: tuple[float, ...]
    """As the user wrote them; empty for 1."""

    @property
    def scale(self) -> float:
        """The scale of the denoiser."""
        return self.scales[0] if self.scales else 1.0

    @property
    def text_scale(self) -> float:
        """The scale of the text encoders."""
        return self.scales[-1] if self.scales else 1.0

    def scaled(self) -> ScaledAdapter:
        """Return what is added to a sum."""
        adapter = self.adapter
        return ScaledAdapter(
            name=self.name,
            tensors=adapter.tensors,
            metadata=adapter.metadata,
            scale=self.scale,
            text_scale=self.text_scale,
        )

    def subjects(self) -> tuple[SubjectRecord, ...]:
        """List its subjects; a single one is called as the adapter is."""
        manifest = self.adapter.manifest
        if manifest is None:
            return ()
        name = re.sub(r"\W+", "_", self.name).strip("_") or "subject"
        alone = SubjectRecord(name=name, token=manifest.token, class_noun=manifest.class_noun)
        return manifest.subjects or (alone,)

    def record(self) -> dict[str, Any]:
        """Describe it for the manifest of what is made of it."""
        manifest = self.adapter.manifest
        facts: dict[str, Any] = {"name": self.name, "unet_scale": self.scale, "text_scale": self.text_scale}
        if manifest is None:
            return facts | {"format": self.adapter.format or OWN}
        return facts | {"method": manifest.method, "step": manifest.step, "recipe": manifest.recipe}


def read_inputs(sources: Sequence[Source]) -> list[InputAdapter]:
    """Read adapters in every form that users name them.

    Raises:
        UserError: one cannot be read or changes nothing, or two have one name.
    """
    found: list[InputAdapter] = []
    for source in map(read_source, sources):
        adapter, path = resolve_adapter(source.file())
        if changes_nothing(adapter):
            raise UserError(f"{path} changes nothing, as every layer's change is 0; leave it out, or train it again.")
        found.append(InputAdapter(name=name_of(source), path=path, adapter=adapter, scales=source.scales))
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two adapters are called {twice}; give one of them another name, as in NAME={found[-1].path}.")
    return found


def changes_nothing(adapter: Adapter) -> bool:
    """Tell whether an adapter holds low-rank layers alone, each of which has a factor of zeros."""
    layers, others = read_own(adapter.tensors, adapter.metadata)
    return not others and all(
        not change.is_dora and any(not tensor.any() for tensor in change.tensors.values()) for change in layers.values()
    )


def word_places(path: Path, tokens: Iterable[str], *, alone: bool) -> dict[str, Path]:
    """Name the files of words beside another file, none of which is there yet.

    Tools of kohya's forms call a word by its file's name; `alone` gives it no more than that.

    Raises:
        UserError: one is there, or cannot be written.
    """
    places: dict[str, Path] = {}
    for token in tokens:
        safe = re.sub(r"[^\w-]+", "", token) or "word"
        name = safe if alone else f"{path.stem if path.suffix == ENDING else path.name}_{safe}"
        numbers = itertools.count(2)
        place = path.with_name(f"{name}{ENDING}")
        while place in places.values():
            place = path.with_name(f"{name}-{next(numbers)}{ENDING}")
        check_new(place)
        places[token] = place
    return places


def check_out(out: Path, inputs: Sequence[InputAdapter]) -> None:
    """Refuse an output file of another kind, one that is there, or one that cannot be written.

    Raises:
        UserError: it is.
    """
    if out.suffix != ENDING:
        raise UserError(f"--out {out} is not the name of a {ENDING} file; give one, such as --out {out}{ENDING}.")
    check_free(out, inputs)


def check_free(out: Path, inputs: Sequence[InputAdapter] = ()) -> None:
    """Refuse an output that is there, or that cannot be written.

    Raises:
        UserError: it is.
    """
    if any(out.exists() and out.samefile(one.path) for one in inputs):
        raise UserError(f"--out {out} is one of the files that are read; give another --out.")
    check_new(out)


def check_format(to: str | None) -> None:
    """Refuse an unknown format, and peft's, which is a folder.

    Raises:
        UserError: it is.
    """
    if to == "peft":
        raise UserError("--to peft would be a folder; leave it out, and run mascot convert --to peft on the result.")
    if to is not None and to not in FILES:
        raise UserError(f"--to {to!r} is not a format{suggest(to, FILES)}")


def check_one_base(inputs: Sequence[InputAdapter]) -> None:
    """Refuse adapters of different bases.

    Raises:
        UserError: their manifests name different bases, or their layers are those of different
            kinds of bases.
    """
    bases = {manifest.base_identity: one for one in inputs if (manifest := one.adapter.manifest) is not None}
    if len(bases) > 1:
        described = [f"{one.name} on {one.adapter.manifest.base}" for one in bases.values() if one.adapter.manifest]
        raise UserError(
            f"the adapters were trained on different bases ({list_some(described)}), so that their sum fits neither; "
            "merge adapters of one base."
        )
    kinds = {kind: one for one in inputs if (kind := architecture_of(one.adapter.tensors)) is not None}
    if len(kinds) > 1:
        described = [f"{one.name} is for {kind}" for kind, one in kinds.items()]
        raise UserError(f"the adapters are for different kinds of bases ({list_some(described)}); merge those of one.")


def joint_manifest(inputs: Sequence[InputAdapter], *, layers: bool, words: bool) -> Manifest | None:
    """Describe what is made of several adapters: all their subjects, and the first one's recipe.

    The scales are part of the weights now, so that recommended knobs have none. Without a manifest
    of any input there is none.

    Raises:
        UserError: two subjects have one name, or a name means something else in prompts.
    """
    described = [one for one in inputs if one.adapter.manifest is not None]
    if not described:
        return None
    manifests = [one.adapter.manifest for one in described if one.adapter.manifest is not None]
    subjects = [(one, subject) for one in described for subject in one.subjects()]
    names = [subject.name for _, subject in subjects]
    several = len(subjects) > 1
    for one, subject in subjects if several else ():
        if names.count(subject.name) > 1 or subject.name in PLACEHOLDERS:
            raise UserError(
                f"{{{subject.name}}} would mean two things in prompts; give the adapter another name, as in "
                f"NAME={one.path}."
            )
    first = manifests[0]
    method = method_holding(layers=layers, words=words)
    recipe: dict[str, Any] = {**first.recipe, "merged": [one.record() for one in inputs]}
    if recipe.get("method", {}).get("name") != method or several:
        recipe["method"] = {"name": method}
    knobs = {name: value for name, value in (first.knobs or {}).items() if not name.endswith("_scale")}
    return replace_manifest(
        first,
        method=method,
        token=subjects[0][1].token,
        class_noun=subjects[0][1].class_noun,
        step=max(manifest.step for manifest in manifests),
        recipe=recipe,
        knobs=knobs or None,
        subjects=tuple(subject for _, subject in subjects) if several else first.subjects,
    )


def replace_manifest(manifest: Manifest, **changes: object) -> Manifest:
    """Return a manifest with some values replaced, all checked again."""
    return Manifest.model_validate({**dict(manifest), **changes})


def output_format(inputs: Sequence[InputAdapter], to: str | None) -> str:
    """Return the format that is written: the one asked for, else that of the inputs, else ours."""
    if to is not None:
        return to
    formats = {one.adapter.format or OWN for one in inputs}
    found = formats.pop() if len(formats) == 1 else OWN
    return found if found in FILES else OWN


def write_output(
    out: Path,
    adapter: Adapter,
    source: Path,
    to: str,
) -> None:
    """Write an adapter in a format, as a whole file or not at all, with a header for other tools.

    `source` is a file that it was made from.

    Raises:
        UserError: the format has no name for a layer, or the file cannot be written.
    """
    outline = replace(adapter, tensors={key: tensor.to("meta") for key, tensor in adapter.tensors.items()})
    architecture = architecture_of(outline.tensors) or stated_architecture(outline.tensors, adapter.metadata)
    tensors, metadata = adapter.tensors, adapter.metadata
    if to != OWN:
        tensors, written = write_format(to, tensors, metadata, architecture)
        metadata = written
    facts = facts_of(outline, source, architecture, out.stem)
    metadata = header_metadata(outline, facts, metadata, to=to, private=False)
    Adapter(tensors=tensors, metadata=metadata, manifest=adapter.manifest).write(out)


def base_path(base: str, option: str = "the base") -> Path:
    """Return the folder or file of a base: `starter`, a path, or a hub id that is in the cache.

    `option` names the base in messages.

    Raises:
        UserError: it is none of these.
    """
    path = Path(source_of(base))
    if path.exists():
        return path
    if is_hub_id(base):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(base, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            pass
    raise UserError(
        f"{option} {base!r} is not there; give 'starter', a folder, a .safetensors file or a cached hub id."
    )


def kernels_for(adapters: Sequence[ScaledAdapter], inputs: Sequence[InputAdapter], base: str | None) -> Kernels:
    """Find the kernels of convolutions, in the base's files where the adapters do not tell them.

    Raises:
        UserError: the base is needed, and is not there.
    """
    if base is not None:
        base_path(base, "--base")  # a wrong one is said even where nothing is needed of it
    if not needs_kernels(adapters):
        return {}
    named = base or next((one.adapter.manifest.base for one in inputs if one.adapter.manifest is not None), "")
    try:
        places = locate_weights(base_path(named)).places
    except UserError as error:
        raise UserError(
            f"a LoHa or LoKr of convolutions does not tell their kernels, which the base does ({error}); "
            "give --base, where the base is now."
        ) from error
    return {
        layer: places[weight].shape[2:]
        for adapter in adapters
        for layer in adapter.layers
        if (weight := weight_of(layer)) in places
    }


def weight_of(layer: str) -> str:
    """Name the weight of a layer, `<part>.<name>`, as `weight_places` does."""
    return f"{plain_weight(layer)}.weight"


def plain_weight(key: str) -> str:
    """Name a weight `<part>.<name>`, as `weight_places` does."""
    part, _, name = key.partition(".")
    return plain_name(part, name)


def seconds_for(operations: float) -> float:
    """Estimate the seconds of decompositions, by multiplying two matrices first."""
    side = 384
    one = torch.ones(side, side)
    _ = one @ one
    started = time.perf_counter()
    for _ in range(4):
        _ = one @ one
    rate = 4 * 2 * side**3 / max(time.perf_counter() - started, 1e-6)
    return operations / rate / EFFICIENCY


def show_seconds(seconds: float) -> str:
    """Write an estimated time."""
    if seconds < 10:
        return "a few seconds"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"


def show_bytes(count: float) -> str:
    """Write a size in KB, MB or GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} KB"
