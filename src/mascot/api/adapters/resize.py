"""`resize`: give the layers of an adapter other ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.adapters.formats.layer_settings import without_settings
from mascot.adapters.weight_changes.decomposition import RankRule
from mascot.adapters.weight_changes.merging import ScaledAdapter, common_dtype, summed_changes
from mascot.adapters.weight_changes.resizing import Ranks, magnitude_of, ranks_in, settings_metadata
from mascot.api.adapters.input_files import (
    InputAdapter,
    Source,
    check_format,
    check_out,
    kernels_for,
    output_format,
    read_inputs,
    replace_manifest,
    seconds_for,
    show_bytes,
    show_seconds,
    write_output,
)
from mascot.api.adapters.rank_reduction import FileWork, check_rule, reduced_tensors, size_row
from mascot.errors import UserError, list_some
from mascot.progress import FileWorkPlanned, OnEvent, ignore


def resize(
    adapter: Source,
    out: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    ratio: float | None = None,
    base: str | None = None,
    to: str | None = None,
    on_event: OnEvent = ignore,
) -> FileWork:
    """Write an adapter again with other ranks, each layer's change as close as its rank allows.

    A LoHa or a LoKr becomes a LoRA. A DoRA keeps its magnitudes; words are kept too.

    `rank` is the most singular values of a layer, `energy` the share of its energy that is kept,
    and `ratio` the largest of them over the smallest. `base` says where the base is, which a LoHa
    or LoKr of convolutions needs. `to` is the format of the file, by default that of the adapter.
    Events: `FileWorkPlanned`, `LayersDone`.

    Raises:
        UserError: the adapter cannot be read or has no ranks, or nothing can be written.
    """
    out, rule = Path(out), RankRule(rank=rank, energy=energy, ratio=ratio)
    check_format(to)
    (one,) = read_inputs([adapter])
    check_out(out, [one])
    part = one.scaled()
    check_resizable(one, part, rule)
    changes = summed_changes([part], kernels_for([part], [one], base))
    on_event(plan_resize(one, part))
    ranks = Ranks(linear=rule, convolution=rule)
    tensors, rows = reduced_tensors(changes, ranks, common_dtype([part]), on_event)
    magnitudes = kept_magnitudes(part)
    metadata = settings_metadata(ranks_in(tensors), magnitudes=bool(magnitudes)) | without_settings(part.metadata)
    tensors |= magnitudes | {key: part.tensors[key] for key in part.word_keys}
    made = Adapter(tensors=tensors, metadata=metadata, manifest=described(one, rule))
    write_output(out, made, one.path, output_format([one], to))
    sizes = ("size", f"{show_bytes(out.stat().st_size)}, before {show_bytes(one.path.stat().st_size)}")
    return FileWork(path=out, rows=(*rows, *magnitude_rows(magnitudes), sizes))


def magnitude_rows(magnitudes: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Say what is approximated of a DoRA."""
    return [("magnitudes", "kept; the energy is that of the directions")] if magnitudes else []


def check_resizable(one: InputAdapter, part: ScaledAdapter, rule: RankRule) -> None:
    """Refuse what has no ranks, rules that are none, and scales, which belong to sums.

    Raises:
        UserError: it is such an adapter or rule, or scales are given.
    """
    check_rule(rule)
    if rule == RankRule():
        raise UserError("no rank is given; give --rank, --energy or --ratio.")
    if one.scales:
        raise UserError(f"{one.name} is resized as it is; leave the scale out, or give it to mascot merge.")
    if part.others:
        raise UserError(
            f"{one.name} holds whole weights ({list_some(part.others)}), which have no rank; "
            "extract a LoRA from it with mascot extract."
        )
    if not part.layers:
        raise UserError(f"{one.name} holds words alone, which have no rank; give an adapter with low-rank layers.")


def kept_magnitudes(part: ScaledAdapter) -> dict[str, Tensor]:
    """Collect the magnitudes of a DoRA; empty for other adapters."""
    return {key: value for layer in part.layers.values() for key, value in magnitude_of(layer, part.tensors).items()}


def described(one: InputAdapter, rule: RankRule) -> Manifest | None:
    """Describe the resized adapter as the adapter was, with the rule that its ranks follow."""
    manifest = one.adapter.manifest
    if manifest is None:
        return None
    given = {name: getattr(rule, name) for name in ("rank", "energy", "ratio") if getattr(rule, name) is not None}
    return replace_manifest(manifest, recipe={**manifest.recipe, "resized": given})


def plan_resize(one: InputAdapter, part: ScaledAdapter) -> FileWorkPlanned:
    """Say what is resized, how long it takes, and how large the file becomes at most."""
    tensors = one.adapter.tensors.values()
    return FileWorkPlanned(
        title="resize",
        rows=(
            ("adapter", one.name),
            ("tensors", f"{len(one.adapter.tensors)}, of {len(part.layers)} layers"),
            ("time", show_seconds(seconds_for(sum(tensor.numel() for tensor in tensors) * 8 * 64))),
            ("size of the output", size_row([part], sum(tensor.nbytes for tensor in tensors), "usually below")),
        ),
        layers=len(part.layers),
    )
