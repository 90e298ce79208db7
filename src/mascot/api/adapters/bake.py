"""`bake`: add the weight changes of adapters to a base, and write it as a base of its own."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.token_rows import BUNDLE, read_records, write_records
from mascot.adapters.weight_changes.low_rank import StoredLayer, changed_weight
from mascot.adapters.weight_changes.merging import ScaledAdapter, join_words
from mascot.api.adapters.input_files import (
    ENDING,
    InputAdapter,
    Source,
    base_path,
    check_free,
    check_one_base,
    plain_weight,
    read_inputs,
    show_bytes,
    weight_of,
    word_places,
)
from mascot.api.adapters.rank_reduction import FileWork
from mascot.errors import UserError, list_some
from mascot.models.base_files.weight_places import PARTS, BaseFiles, locate_weights, put_weight
from mascot.progress import FileWorkPlanned, LayersDone, OnEvent, ignore
from mascot.storage.atomic_write import all_or_none, atomic_write
from mascot.storage.tensor_files import open_tensors, stream_tensors

STALE: Final = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Keys of a header that hold the hash of the weights that were there before."""
WEIGHTS: Final = (ENDING, ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".h5")
"""Endings of files with weights; those of a part that is read are written anew, others left out."""
FORGOTTEN: Final = ".position_ids"
"""End of the name of a buffer that some versions of a library store, and never read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one adapter does to one weight of the base."""

    adapter: ScaledAdapter
    scale: float
    layer: StoredLayer | None = None
    """A low-rank layer; or else `key` holds the whole weight."""
    key: str = ""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether it changes a weight of a shape; products tell that only when multiplied."""
        if self.layer is None:
            return tuple(self.adapter.tensors[self.key].shape) == shape
        if self.is_product:
            return True
        up, down = (self.adapter.tensors[self.layer.keys[f"lora_{side}.weight"]] for side in "BA")
        return (len(up), down[0].numel()) == (shape[0], math.prod(shape[1:]))

    @property
    def is_product(self) -> bool:
        """Whether it is a LoHa or a LoKr, which are added after all LoRAs of a weight."""
        return self.layer is not None and self.layer.kind != "factors"

    def added_to(self, weight: Tensor, before: Tensor) -> Tensor:
        """Compute what is added to a weight, float32, beside what was added `before`."""
        if self.layer is not None:
            return changed_weight(self.layer, self.adapter.tensors, weight, self.scale, before)
        return self.scale * (self.adapter.tensors[self.key].float() - weight.float())


Contributions = Mapping[str, Sequence[Contribution]]
"""Weight of the base -> what changes it."""


def bake(adapters: Sequence[Source], into: str, out: str | Path, *, on_event: OnEvent = ignore) -> FileWork:
    """Write a base whose weights are those of another plus the adapters' changes at their scales.

    Weights keep their type and are added in float32, one at a time, so a base may be larger than
    the memory. It draws what the base draws with the adapters. Words cannot be part of a base; each
    gets a file beside it.

    Args:
        adapters: `[NAME=]PATH[:SCALE[:TEXT_SCALE]]`, of this base.
        into: `starter`, a folder in the diffusers layout, a single file, or a cached hub id.
        out: A new folder for a folder, a new .safetensors file for a single file.
        on_event: Receives `FileWorkPlanned` and `LayersDone`.

    Raises:
        UserError: an adapter or the base cannot be read, they do not fit together, or the base
            cannot be written.
    """
    out, source = Path(out), base_path(into, "--into")
    inputs = read_inputs(adapters)
    check_target(source, out)
    check_free(out, inputs)
    check_one_base(inputs)
    base = locate_weights(source)
    parts = [one.scaled() for one in inputs]
    tensors, metadata = join_words(parts)
    tokens = dict.fromkeys(key.removeprefix(BUNDLE).rpartition(".")[0] for key in tensors)
    places = word_places(out, tokens, alone=False)
    changes = contributions(parts)
    check_found(changes, base)
    on_event(plan_bake(inputs, base, changes))
    with all_or_none() as done:
        words = write_words(tensors, metadata, places, done)
        write_base(base, changes, out, on_event)
    kinds = sorted({name.partition(".")[0] for name in changes})
    rows = [(part, f"{sum(name.startswith(f'{part}.') for name in changes)} weights changed") for part in kinds]
    return FileWork(path=out, rows=(*rows, *words))


def check_target(source: Path, out: Path) -> None:
    """Refuse a folder baked into a file, and a file into a folder.

    Raises:
        UserError: it is.
    """
    if source.is_dir() and out.suffix == ENDING:
        raise UserError(f"{source} is a folder, and is baked into a folder; give --out {out.with_suffix('')}.")
    if source.is_file() and out.suffix != ENDING:
        raise UserError(f"{source} is a single file, and is baked into one; give --out {out}{ENDING}.")


def contributions(parts: Sequence[ScaledAdapter]) -> dict[str, list[Contribution]]:
    """Collect what changes each weight, over all adapters; a scale of 0 changes nothing.

    Raises:
        UserError: no weight is changed.
    """
    found: dict[str, list[Contribution]] = {}
    for one in parts:
        for name, layer in one.layers.items():
            found.setdefault(weight_of(name), []).append(
                Contribution(adapter=one, scale=one.scale_of(name), layer=layer)
            )
        for key in one.others:
            if one.scale_of(key) and not key.endswith(FORGOTTEN):
                found.setdefault(plain_weight(key), []).append(
                    Contribution(adapter=one, scale=one.scale_of(key), key=key)
                )
    if not found:
        raise UserError(
            "nothing changes the base's weights: the adapters hold words alone, or their scales are 0; "
            "give an adapter with layers, and a scale such as 1."
        )
    return found


def check_found(changes: Contributions, base: BaseFiles) -> None:
    """Refuse adapters that change weights which the base lacks, or that have another shape there.

    Raises:
        UserError: they do.
    """
    missing = [name for name in changes if name not in base.places]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(changes)} weights that are changed are not in {base.path}, {list_some(missing)}; "
            "give the base that the adapters were trained on."
        )
    for name, found in changes.items():
        shape = base.places[name].shape
        for one in found:
            if not one.fits(shape):
                raise UserError(
                    f"{one.adapter.name} has another shape of {name} than {base.path}; "
                    "give the base that it was trained on."
                )


def new_weight(weight: Tensor, found: Sequence[Contribution]) -> Tensor:
    """Compute a weight with all changes, float32, in the order in which generation applies them.

    Whole weights come first; a single one at full scale is taken as it is.
    """
    whole = [one for one in found if one.key]
    if len(whole) == 1 and whole[0].scale == 1:
        base = whole[0].adapter.tensors[whole[0].key].float()
    else:
        nothing = torch.zeros(())
        base = sum((one.added_to(weight, nothing) for one in whole), weight.float())
    low_rank = sorted((one for one in found if not one.key), key=lambda one: one.is_product)
    added = torch.zeros_like(base)
    for one in low_rank:
        added = added + one.added_to(base, added)
    return base + added if low_rank else base


def plan_bake(inputs: Sequence[InputAdapter], base: BaseFiles, changes: Contributions) -> FileWorkPlanned:
    """Say what is baked, and how large the base becomes."""
    size = sum(file.stat().st_size for file in base.files)
    return FileWorkPlanned(
        title="merge into a base",
        rows=(
            ("adapters", ", ".join(f"{one.name} at {one.scale:g} and {one.text_scale:g} (text)" for one in inputs)),
            ("base", f"{base.path}, {len(base.files)} files of weights that are read"),
            ("tensors", f"{len(changes)} of {len(base.places)} weights change"),
            ("size of the output", f"about {show_bytes(size)}, in the base's own types"),
        ),
        layers=len(changes),
    )


def write_base(base: BaseFiles, changes: Contributions, out: Path, on_event: OnEvent) -> None:
    """Write the base with changed weights, whole or not at all."""
    done = counted(on_event)
    if base.path.is_file():
        with atomic_write(out) as temporary, base.opened() as read:
            write_weights(base, base.path, temporary, ChangedWeights(changes, read, done))
        return
    with atomic_write(out) as temporary, base.opened() as read:
        worked = ChangedWeights(changes, read, done)
        for source in files_to_copy(base):
            target = temporary / source.relative_to(base.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source in base.files:
                write_weights(base, source, target, worked)
            else:
                shutil.copyfile(source, target)


def files_to_copy(base: BaseFiles) -> Iterator[Path]:
    """Yield the files of a folder that the new one gets too.

    Other variants of parts that are read would hold other weights, so they are left out.
    """
    for path in sorted(base.path.rglob("*")):
        part = path.relative_to(base.path).parts[0]
        hidden = any(name.startswith(".") for name in path.relative_to(base.path).parts)
        stale = part in PARTS and path.suffix in WEIGHTS and path not in base.files
        pickled = path.suffix in WEIGHTS and path.suffix != ENDING
        if path.is_file() and not (hidden or stale or pickled):
            yield path


@dataclass(frozen=True, slots=True)
class ChangedWeights:
    """The weights that change, each computed when it is asked for."""

    changes: Contributions
    read: Callable[[str], Tensor]
    """Reads a weight of the base."""
    done: Callable[[], None]
    """Called after each weight."""

    def compute(self, name: str) -> Tensor:
        """Compute one weight, float32."""
        weight = new_weight(self.read(name), self.changes[name])
        self.done()
        return weight


def write_weights(base: BaseFiles, source: Path, target: Path, changed: ChangedWeights) -> None:
    """Write one file of weights again, tensor by tensor, with those of some rows changed."""
    names: dict[str, list[str]] = {}
    for name in changed.changes:
        place = base.places[name]
        for key in dict.fromkeys(run.key for run in place.runs if place.file == source):
            names.setdefault(key, []).append(name)
    with open_tensors(source) as stored:
        shapes = {key: stored.shape(key) for key in stored}
        metadata = {key: value for key, value in stored.header.metadata.items() if key not in STALE}
        with stream_tensors(target, shapes, metadata) as write, torch.no_grad():
            for key in stored:
                tensor = stored[key]
                for name in names.get(key, ()):
                    put_weight(base.places[name], key, tensor, changed.compute(name))
                write(key, tensor)


def counted(on_event: OnEvent) -> Callable[[], None]:
    """Return a function that counts weights that are done, and says so."""
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        on_event(LayersDone(layers=count))

    return done


def write_words(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], places: Mapping[str, Path], done: list[Path]
) -> list[tuple[str, str]]:
    """Write the words of all adapters beside the base, each in a file of its own.

    Returns a row for each, and adds its file to those that are done.
    """
    records = {record.token: record for record in read_records(metadata)} if metadata else {}
    rows: list[tuple[str, str]] = []
    for word, path in places.items():
        own = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{BUNDLE}{word}.")}
        record = write_records([records[word]]) if word in records else {}
        Adapter(tensors=own, metadata=record, manifest=None).write(path)
        done.append(path)
        rows.append((f"word {word}", f"{path}, an adapter of its own for the new base"))
    return rows
