"""`merge`: add the weight changes of adapters, in one adapter file or baked into a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.weight_changes.decomposition import RankRule
from mascot.adapters.weight_changes.extraction import Energy
from mascot.adapters.weight_changes.merging import (
    Kernels,
    ScaledAdapter,
    SummedTensors,
    check_addable,
    common_dtype,
    join_words,
    layers_of,
    other_metadata,
    summed_changes,
)
from mascot.adapters.weight_changes.resizing import (
    Ranks,
    energy_rows,
    ranks_in,
    settings_metadata,
)
from mascot.api.adapters.input_files import (
    InputAdapter,
    Source,
    check_format,
    check_one_base,
    check_out,
    joint_manifest,
    kernels_for,
    output_format,
    read_inputs,
    seconds_for,
    show_bytes,
    show_seconds,
    write_output,
)
from mascot.api.adapters.rank_reduction import FileWork, check_rule, reduced_tensors, size_row
from mascot.errors import UserError
from mascot.progress import FileWorkPlanned, LayersDone, OnEvent, ignore


def merge(
    adapters: Sequence[Source],
    out: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    base: str | None = None,
    to: str | None = None,
    on_event: OnEvent = ignore,
) -> FileWork:
    """Write the sum of the weight changes of several adapters, each at its scales, as one LoRA.

    Without `rank` and `energy` the sum is exact: ranks add up. With them it is the closest change
    of at most that rank, or of that share of its energy.

    `adapters` are `[NAME=]PATH[:SCALE[:TEXT_SCALE]]`, of one base. `base` says where it is, which a
    LoHa or LoKr of convolutions needs. `to` is the format of the file, by default that of the
    adapters. Events: `FileWorkPlanned`, `LayersDone`.

    Raises:
        UserError: an adapter cannot be read, they do not fit together, or nothing can be written.
    """
    out, rule = Path(out), RankRule(rank=rank, energy=energy)
    check_rule(rule)
    check_format(to)
    inputs, parts = addable_inputs(adapters, out)
    words, records = join_words(parts)
    kernels, found = kernels_for(parts, inputs, base), layers_of(parts)
    if not found and not words:
        raise UserError("nothing is left to merge at these scales; give a scale that is not 0, such as 1.")
    if not found and rule != RankRule():
        raise UserError("these adapters hold words alone, which have no rank; leave --rank and --energy out.")
    manifest = joint_manifest(inputs, layers=bool(found), words=bool(words))
    on_event(plan_merge(inputs, parts, found, rule))
    tensors, rows = summed_tensors(parts, kernels, rule, words, on_event)
    metadata = {**other_metadata(parts), **settings_metadata(ranks_in(tensors)), **records}
    made = Adapter(tensors=tensors, metadata=metadata, manifest=manifest)
    write_output(out, made, inputs[0].path, output_format(inputs, to))
    return FileWork(path=out, rows=(*rows, *word_rows(words, parts), ("size", show_bytes(out.stat().st_size))))


def addable_inputs(adapters: Sequence[Source], out: Path) -> tuple[list[InputAdapter], list[ScaledAdapter]]:
    """Read adapters that can be added without their base, and check where the sum is written.

    Raises:
        UserError: one cannot be read or added, or the sum cannot be written there.
    """
    inputs = read_inputs(adapters)
    check_out(out, inputs)
    check_one_base(inputs)
    parts = [one.scaled() for one in inputs]
    check_addable(parts)
    return inputs, parts


def plan_merge(
    inputs: Sequence[InputAdapter],
    parts: Sequence[ScaledAdapter],
    found: Mapping[str, Sequence[object]],
    rule: RankRule,
) -> FileWorkPlanned:
    """Say what a merge reads, how long it takes, and how large its file becomes."""
    size = float(sum(tensor.nbytes for one in inputs for tensor in one.adapter.tensors.values()))
    values = sum(tensor.numel() for one in inputs for tensor in one.adapter.tensors.values())
    reduces = rule.rank is not None or rule.energy is not None
    return FileWorkPlanned(
        title="merge",
        rows=(
            ("adapters", ", ".join(f"{one.name} at {one.scale:g} and {one.text_scale:g} (text)" for one in inputs)),
            ("tensors", f"{sum(len(one.adapter.tensors) for one in inputs)}, of {len(found)} layers"),
            ("time", show_seconds(seconds_for(values * 8 * 64) if reduces else 0)),
            ("size of the output", size_row(parts, size, "at most about" if reduces else "about")),
        ),
        layers=len(found),
    )


def summed_tensors(
    parts: Sequence[ScaledAdapter],
    kernels: Kernels,
    rule: RankRule,
    words: Mapping[str, Tensor],
    on_event: OnEvent,
) -> tuple[Mapping[str, Tensor], tuple[tuple[str, str], ...]]:
    """Compute the tensors of the sum, with those of words, and the rows that say what was kept."""
    dtype = common_dtype(parts)
    if rule.rank is None and rule.energy is None:
        tensors = SummedTensors(parts, kernels, dtype, words)
        ranks = ranks_in(tensors)
        on_event(LayersDone(layers=len(ranks)))
        return tensors, energy_rows(dict.fromkeys(ranks, Energy()), ranks)
    ranks_of_sums, sums = Ranks(linear=rule, convolution=rule), summed_changes(parts, kernels)
    reduced, rows = reduced_tensors(sums, ranks_of_sums, dtype, on_event)
    return {**reduced, **words}, rows


def word_rows(words: Mapping[str, Tensor], parts: Sequence[ScaledAdapter]) -> list[tuple[str, str]]:
    """Say which words were kept; they are whole, as their scale would need the base's own rows."""
    names = dict.fromkeys(key.removeprefix("bundle_emb.").rpartition(".")[0] for key in words)
    scaled = any(one.text_scale != 1 and one.words for one in parts)
    note = ", whole: a scale is of layers alone" if scaled else ""
    return [("words", f"{', '.join(names)}{note}")] if names else []
