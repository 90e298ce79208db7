"""`extract`: find the LoRA closest to the change between two bases, and the changed words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.lora_keys import name_in_file
from mascot.adapters.weight_changes.decomposition import RankRule
from mascot.adapters.weight_changes.extraction import Energy, group_by_name, group_rows
from mascot.adapters.weight_changes.low_rank import DenseChange, FactoredChange, WeightChange, to_tensors
from mascot.adapters.weight_changes.resizing import Ranks, ranks_in, reduce_layers, settings_metadata
from mascot.api.adapters.input_files import (
    OWN,
    base_path,
    check_format,
    check_out,
    seconds_for,
    show_bytes,
    show_seconds,
    write_output,
)
from mascot.api.adapters.rank_reduction import FileWork, check_rule
from mascot.api.adapters.word_extraction import TOKEN_TABLE, ExtractedWords, TwoBases, extract_words
from mascot.errors import UserError, list_some
from mascot.models.base_files.weight_places import BaseFiles, locate_weights
from mascot.progress import FileWorkPlanned, LayersDone, OnEvent, ignore

CLIP_LAYER: Final = re.compile(r"text_encoder(_\d)?\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")
"""Layers of text encoders where other tools read a LoRA."""
LAYER_GROUPS: Final = frozenset({"attention", "feed-forward", "other linear layers", "convolutions"})
"""Groups of weights that a LoRA can change."""
TEXT: Final = "text_encoder"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is found while the weights of two bases are compared."""

    energies: dict[tuple[str, str], Energy] = field(default_factory=dict[tuple[str, str], Energy])
    """Part and group of weights -> energy of their changes, and what is kept of it."""
    unchanged: list[str] = field(default_factory=list[str])
    """Weights of text encoders' layers that did not change."""

    def add(self, name: str, shape: tuple[int, ...], energy: Energy) -> None:
        """Add the energy of one weight's change."""
        key = (name.partition(".")[0], group_by_name(name, shape))
        self.energies[key] = self.energies.get(key, Energy()) + energy

    def rows(self) -> list[tuple[str, str]]:
        """List what is kept of each part, by group."""
        parts = sorted({part for part, _ in self.energies})
        tables = {part: {group: e for (own, group), e in self.energies.items() if own == part} for part in parts}
        return [row for part in parts for row in group_rows(part, tables[part])]


def extract(
    tuned: str,
    base: str,
    out: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    conv_rank: int | None = None,
    to: str | None = None,
    on_event: OnEvent = ignore,
) -> FileWork:
    """Write the LoRA that is closest to what turned one base into another, layer by layer.

    Weights are read one at a time, in any layout. Added and changed token embeddings become words.
    What no LoRA can hold (norms, biases, other rows) is reported.

    `tuned` and `base` are folders in the diffusers layout, single files, or cached hub ids, in any
    pair. `rank` is the most singular values of a layer, `conv_rank` that of convolutions with a
    kernel, and `energy` the share of each layer's energy that is kept. `to` is the format of the
    file. Events: `FileWorkPlanned`, `LayersDone`.

    Raises:
        UserError: a base cannot be read, both are alike, or the file cannot be written.
    """
    out, ranks = Path(out), choose_ranks(rank, energy, conv_rank)
    check_format(to)
    before, after = (locate_weights(base_path(*given)) for given in ((base, "--base"), (tuned, "the model")))
    check_out(out, [])
    names = check_alike(before, after)
    found = Findings()
    with before.opened() as read_before, after.opened() as read_after, torch.no_grad():
        bases = TwoBases(before=before, after=after, read_before=read_before, read_after=read_after)
        tensors, words = compare(names, bases, ranks, found, on_event)
    check_changed(tensors, words, found, before, after)
    metadata = {**settings_metadata(ranks_in(tensors)), **words.metadata}
    made = Adapter(tensors={**tensors, **words.tensors}, metadata=metadata, manifest=None)
    write_output(out, made, after.files[0], to or OWN)
    return FileWork(path=out, rows=(*found.rows(), *words.rows, ("size", show_bytes(out.stat().st_size))))


def compare(
    names: Sequence[str], bases: TwoBases, ranks: Ranks, found: Findings, on_event: OnEvent
) -> tuple[dict[str, Tensor], ExtractedWords]:
    """Compare all weights: extract layers and words, and measure what else changed."""
    shapes = {name: bases.before.places[name].shape for name in names}
    layers = [name for name in names if is_layer(name, shapes[name])]
    on_event(plan_extract(bases.before, bases.after, layers, ranks))
    tensors = extract_layers(layers, bases, ranks, found, on_event)
    for name in names:
        if not is_layer(name, shapes[name]) and not name.endswith(TOKEN_TABLE):
            changed = float(bases.change(name).double().square().sum())
            found.add(name, shapes[name], Energy(changed=changed))
    words = extract_words(bases)
    for name, energy in words.energies.items():
        found.add(name, shapes[name], energy)
    return tensors, words


def choose_ranks(rank: int | None, energy: float | None, conv_rank: int | None) -> Ranks:
    """Make the rules of linear layers and convolutions from the options.

    Raises:
        UserError: one is out of range, or none is given.
    """
    if rank is None and energy is None:
        raise UserError("no rank is given; give --rank or --energy.")
    if conv_rank is not None and conv_rank < 1:
        raise UserError(f"--conv-rank {conv_rank} is below 1; give 1 or more.")
    linear = RankRule(rank=rank, energy=energy)
    check_rule(linear)
    return Ranks(linear=linear, convolution=RankRule(rank=rank if conv_rank is None else conv_rank, energy=energy))


def check_alike(before: BaseFiles, after: BaseFiles) -> list[str]:
    """List the weights that both bases have, in order; they must be all, and of equal shapes.

    Tables of token embeddings may have more rows in the trained one.

    Raises:
        UserError: they are not bases of one kind, or one base.
    """
    if before.path.samefile(after.path):
        raise UserError(f"{after.path} is the base itself; give the trained model, and --base.")
    if before.parts != after.parts:
        one, other = (" and ".join(sorted(base.parts)) for base in (after, before))
        raise UserError(
            f"{after.path} holds {one}, and {before.path} holds {other}; give a model and the base that it was "
            "trained from."
        )
    known = [name for name in before.places if not name.endswith(".position_ids")]
    wrong = [name for name in known if not has_alike(name, before.places[name].shape, after)]
    if wrong:
        raise UserError(
            f"{after.path} and {before.path} are different kinds of bases ({list_some(wrong)}); give a model and the "
            "base that it was trained from."
        )
    return known


def has_alike(name: str, shape: tuple[int, ...], after: BaseFiles) -> bool:
    """Tell whether a base has a weight of a shape; token embeddings may have more rows."""
    found = list(after.places[name].shape) if name in after.places else [0]
    return found == list(shape) or (name.endswith(TOKEN_TABLE) and found[1:] == list(shape[1:]) and found[0] > shape[0])


def is_layer(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a weight is one that a LoRA can change and that other tools then read.

    In text encoders these are CLIP's projections alone.
    """
    if not name.endswith(".weight") or group_by_name(name, shape) not in LAYER_GROUPS:
        return False
    return not name.startswith(TEXT) or CLIP_LAYER.fullmatch(name.removesuffix(".weight")) is not None


def layer_changes(
    names: Sequence[str], bases: TwoBases, found: Findings, on_event: OnEvent
) -> Iterator[tuple[str, WeightChange]]:
    """Yield the change of each weight that changed; the others are noted."""
    for number, name in enumerate(names, 1):
        change = bases.change(name)
        if change.any():
            yield name, DenseChange(change_MN=change.flatten(1), kernel=tuple(change.shape[2:]))
        else:
            found.add(name, tuple(change.shape), Energy())
            found.unchanged.append(name)
        on_event(LayersDone(layers=number))


def extract_layers(
    names: Sequence[str], bases: TwoBases, ranks: Ranks, found: Findings, on_event: OnEvent
) -> dict[str, Tensor]:
    """Extract the layers that changed, in the order of their names.

    Layers of a changed text encoder that did not change get zeros: other tools read a text
    encoder's LoRA wrongly where some layers are missing, and say nothing.
    """
    dtype = bases.read_after(names[0]).dtype if names else torch.float32
    dtype = dtype if dtype in {torch.float16, torch.bfloat16} else torch.float32
    tensors: dict[str, Tensor] = {}
    changed: set[str] = set()
    for name, reduction in reduce_layers(layer_changes(names, bases, found, on_event), ranks):
        found.add(name, bases.before.places[name].shape, reduction.energy)
        tensors |= to_tensors(layer_in_file(name), reduction.change, dtype)
        changed.add(name.partition(".")[0])
    for name in found.unchanged:
        if name.startswith(TEXT) and name.partition(".")[0] in changed:
            rows, columns = bases.before.places[name].shape
            nothing = FactoredChange(up_MR=torch.zeros(rows, 1), down_RN=torch.zeros(1, columns))
            tensors |= to_tensors(layer_in_file(name), nothing, dtype)
    return dict(sorted(tensors.items()))


def layer_in_file(name: str) -> str:
    """Name the layer of a weight as adapter files do."""
    part, _, rest = name.removesuffix(".weight").partition(".")
    return f"{part}.{name_in_file(part, rest)}"


def check_changed(
    tensors: Mapping[str, Tensor], words: ExtractedWords, found: Findings, before: BaseFiles, after: BaseFiles
) -> None:
    """Refuse two bases without a change that an adapter can hold.

    Raises:
        UserError: they are alike, or differ in other weights alone.
    """
    if tensors or words.tensors:
        return
    others = [f"{part} {group}" for (part, group), energy in found.energies.items() if energy.changed]
    if not others:
        raise UserError(
            f"{after.path} has the weights of {before.path}, so there is nothing to extract; "
            "give the model that was trained."
        )
    raise UserError(
        f"{after.path} differs from {before.path} only in what no adapter holds ({list_some(others)}); "
        "use the whole model as --base."
    )


def plan_extract(before: BaseFiles, after: BaseFiles, layers: Sequence[str], ranks: Ranks) -> FileWorkPlanned:
    """Say what is compared, how long it takes, and how large the file becomes at most."""
    shapes = [before.places[name].shape for name in layers]
    sizes = [(shape[0], torch.Size(shape[1:]).numel()) for shape in shapes]
    width = (ranks.linear.rank or 64) + 12
    operations = sum(2 * rows * columns * width * 8 for rows, columns in sizes)
    reading = sum(file.stat().st_size for base in (before, after) for file in base.files) / 5e8
    size = sum((rows + columns) * min(ranks.linear.rank or 64, rows, columns) * 2 for rows, columns in sizes)
    return FileWorkPlanned(
        title="extract",
        rows=(
            ("trained model", str(after.path)),
            ("base", str(before.path)),
            ("tensors", f"{len(before.places)}, of which {len(layers)} are layers that a LoRA can change"),
            ("time", show_seconds(seconds_for(operations) + reading)),
            ("size of the output", f"at most about {show_bytes(size)} in 16 bits"),
        ),
        layers=len(layers),
    )
