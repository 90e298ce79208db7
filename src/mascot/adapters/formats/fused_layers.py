"""Low-rank layers of several outputs at once: joined from layers of their own, and split into them.

The original code of SD3 and FLUX.1 computes queries, keys and values by one layer, which diffusers
splits. The outputs of a weight are its rows, so joining and splitting moves rows and rounds
nothing, save where the parts have scales whose ratios are no powers of two.

A = the down projection (rank x in), B = the up projection (out x rank).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from itertools import accumulate, pairwise
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.lora_keys import DOWN, MAGNITUDE, MOST_RANK, UP

OUTPUTS: Final[Mapping[str, str]] = {UP: DOWN, ".hada_w1_a": ".hada_w1_b", ".hada_w2_a": ".hada_w2_b"}
"""Tensor with a row for each output -> the other factor of its product, with the inputs."""
KRONECKER: Final = (".lokr_w1", ".lokr_w1_a")
"""The tensors of a LoKr whose rows stand for blocks of outputs; a layer has one of them."""

PAIRS: Final[Mapping[str, str]] = {**OUTPUTS, ".lokr_w1_a": ".lokr_w1_b", ".lokr_w2_a": ".lokr_w2_b"}
"""Left factor of a product -> the right one."""


class InseparableLayerError(Exception):
    """A layer cannot be joined or split exactly; the text is the reason, as half a sentence."""


def scale_of(layer: LayerChange) -> Fraction:
    """Divide alpha by the rank, exactly."""
    return Fraction(layer.alpha) / layer.rank


def is_kronecker(layer: LayerChange) -> bool:
    """Tell whether a layer is a LoKr."""
    return any(name.startswith(".lokr_") for name in layer.tensors)


def outputs_of(layer: LayerChange) -> int:
    """Count the outputs: the rows of the weight."""
    if is_kronecker(layer):
        second = next(layer.tensors[name] for name in (".lokr_w2", ".lokr_w2_a") if name in layer.tensors)
        return len(layer.tensors[block_name(layer)]) * len(second)
    return len(next(layer.tensors[name] for name in OUTPUTS if name in layer.tensors))


def inputs_of(layer: LayerChange) -> int:
    """Count the inputs: the columns of the weight, as a matrix."""
    if is_kronecker(layer):
        names = (("lokr_w1_b", "lokr_w1"), ("lokr_w2_b", "lokr_w2"))
        factors = [next(layer.tensors[f".{name}"] for name in pair if f".{name}" in layer.tensors) for pair in names]
        return factors[0][0].numel() * factors[1][0].numel()
    return next(layer.tensors[OUTPUTS[name]] for name in OUTPUTS if name in layer.tensors)[0].numel()


def block_name(layer: LayerChange) -> str:
    """Name the tensor of a LoKr whose rows stand for blocks of outputs."""
    return next(name for name in KRONECKER if name in layer.tensors)


def swap_halves(layer: LayerChange) -> LayerChange:
    """Exchange the first and the second half of the outputs, as scale and shift change places.

    Raises:
        InseparableLayerError: the halves do not begin at blocks of a LoKr.
    """
    tensors = dict(layer.tensors)
    rows = (block_name(layer),) if is_kronecker(layer) else (*OUTPUTS, MAGNITUDE)
    for name in (name for name in rows if name in tensors):
        if len(tensors[name]) % 2:
            raise InseparableLayerError("the halves of its outputs begin inside a block of its Kronecker product")
        tensors[name] = torch.cat(tuple(reversed(tensors[name].chunk(2)))).contiguous()
    return replace(layer, tensors=tensors)


def join_layers(parts: Sequence[LayerChange | None], shares: Sequence[int]) -> LayerChange:
    """Join layers that read the same inputs into one with all their outputs.

    `shares` are the relative numbers of outputs of the parts. A part that is None changes nothing.
    Equal down projections are kept once. Others are stacked: the ranks add up, and the up
    projection is zero outside of each part's block.

    Raises:
        InseparableLayerError: no single layer of this kind is equal to the parts.
    """
    given = [part for part in parts if part is not None]
    if len({frozenset(part.tensors) for part in given}) > 1:
        raise InseparableLayerError("its parts are adapters of different kinds")
    if len({outputs_of(part) * sum(shares) // share for part, share in zip(parts, shares, strict=True) if part}) > 1:
        raise InseparableLayerError("its parts have the wrong numbers of outputs")
    if len({inputs_of(part) for part in given}) > 1:
        raise InseparableLayerError("its parts have different numbers of inputs")
    if MAGNITUDE in given[0].tensors and len(given) < len(parts):
        raise InseparableLayerError("some of its parts have no magnitudes, and a DoRA needs those of all outputs")
    if is_kronecker(given[0]):
        return join_kronecker(parts, shares)
    scale = max((scale_of(part) for part in given), key=abs)
    scaled = [part and scale_outputs(part, scale_of(part) / scale) for part in parts] if scale else parts
    names = [name for name in OUTPUTS if name in given[0].tensors]
    is_shared = all(equal([part.tensors[OUTPUTS[name]] for part in given]) for name in names)
    rows = rows_of(parts, shares, outputs_of(given[0]))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors[OUTPUTS[name]] = (
            given[0].tensors[OUTPUTS[name]] if is_shared else torch.cat([part.tensors[OUTPUTS[name]] for part in given])
        )
        tensors[name] = stack_outputs([part and part.tensors[name] for part in scaled], rows, is_shared=is_shared)
    if MAGNITUDE in given[0].tensors:
        tensors[MAGNITUDE] = torch.cat([part.tensors[MAGNITUDE] for part in given])
    rank = given[0].rank if is_shared else sum(part.rank for part in given)
    return LayerChange(tensors=tensors, rank=rank, alpha=float(scale * rank))


def rows_of(parts: Sequence[LayerChange | None], shares: Sequence[int], first: int) -> list[int]:
    """Give the rows of all parts, where the first that is given has so many.

    Raises:
        InseparableLayerError: the parts that are missing would have a fraction of a row.
    """
    share = next(share for part, share in zip(parts, shares, strict=True) if part)
    if first % share:
        raise InseparableLayerError(f"its {first} rows are no multiple of {share}")
    return [other * first // share for other in shares]


def equal(tensors: Sequence[Tensor]) -> bool:
    """Tell whether all tensors are equal, in shape too."""
    return all(torch.equal(tensors[0], tensor) for tensor in tensors[1:])


def scale_outputs(layer: LayerChange, factor: Fraction) -> LayerChange:
    """Multiply the change by a factor, in one of its tensors; exact for powers of two."""
    if factor == 1:
        return layer
    name = next(name for name in OUTPUTS if name in layer.tensors)
    scaled = (layer.tensors[name].double() * float(factor)).to(layer.tensors[name].dtype)
    return replace(layer, tensors={**layer.tensors, name: scaled})


def stack_outputs(blocks: Sequence[Tensor | None], rows: Sequence[int], *, is_shared: bool) -> Tensor:
    """Stack the parts' up projections: in columns of their own, or all in the same where shared."""
    given = [block for block in blocks if block is not None]
    columns = given[0].shape[1] if is_shared else sum(block.shape[1] for block in given)
    dtype = reduce(torch.promote_types, (block.dtype for block in given))
    joined = given[0].new_zeros((sum(rows), columns), dtype=dtype)
    top = left = 0
    for block, height in zip(blocks, rows, strict=True):
        if block is not None:
            joined[top : top + height, left : left + block.shape[1]] = block
            left += 0 if is_shared else block.shape[1]
        top += height
    return joined


def join_kronecker(parts: Sequence[LayerChange | None], shares: Sequence[int]) -> LayerChange:
    """Join LoKrs that have the same second factor: their first factors are stacked.

    Raises:
        InseparableLayerError: they have different second factors or scales.
    """
    given = [part for part in parts if part is not None]
    name = block_name(given[0])
    others = set(given[0].tensors) - {name}
    if not all(equal([part.tensors[other] for part in given]) for other in others) or (
        len({(part.rank, part.alpha) for part in given}) > 1
    ):
        raise InseparableLayerError("the Kronecker products of its parts have different second factors")
    first = given[0].tensors[name]
    blocks = [
        first.new_zeros((rows, first.shape[1])) if part is None else part.tensors[name]
        for part, rows in zip(parts, rows_of(parts, shares, len(first)), strict=True)
    ]
    return replace(given[0], tensors={**given[0].tensors, name: torch.cat(blocks)})


def split_layer(layer: LayerChange, shares: Sequence[int]) -> list[LayerChange | None]:
    """Split a layer into the parts of its outputs; the inverse of `join_layers`.

    A part is None where the layer does not change its outputs at all. An up projection in blocks,
    as `join_layers` and trainers of single parts make it, gives each part the rank of its block.
    Any other gives each part the whole down projection.

    Raises:
        InseparableLayerError: the parts' outputs do not begin at blocks of a LoKr.
    """
    if is_kronecker(layer):
        return split_kronecker(layer, shares)
    if outputs_of(layer) % sum(shares):
        raise InseparableLayerError(f"its {outputs_of(layer)} outputs are no multiple of {sum(shares)}")
    rows = [share * outputs_of(layer) // sum(shares) for share in shares]
    names = [name for name in OUTPUTS if name in layer.tensors]
    layouts = {tuple(find_blocks(layer.tensors[name].split(rows))) for name in names}
    columns = list(layouts.pop()) if len(layouts) == 1 else []
    if MAGNITUDE in layer.tensors and 0 in columns:
        columns = []
    edges = list(accumulate(columns, initial=0))
    parts: list[LayerChange | None] = []
    for index, top in enumerate(accumulate([0, *rows[:-1]])):
        outputs, ranks = slice(top, top + rows[index]), slice(None)
        if columns:
            ranks = slice(edges[index], edges[index + 1])
        parts.append(cut(layer, outputs, ranks) if not columns or columns[index] else None)
    return parts


def cut(layer: LayerChange, outputs: slice, ranks: slice) -> LayerChange:
    """Take some outputs of a layer, and the ranks that they need, at the same scale."""
    tensors: dict[str, Tensor] = {}
    for name in (name for name in OUTPUTS if name in layer.tensors):
        tensors[OUTPUTS[name]] = copied(layer.tensors[OUTPUTS[name]][ranks])
        tensors[name] = copied(layer.tensors[name][outputs, ranks])
    if MAGNITUDE in layer.tensors:
        tensors[MAGNITUDE] = copied(layer.tensors[MAGNITUDE][outputs])
    rank = len(range(*ranks.indices(layer.rank)))
    return LayerChange(tensors=tensors, rank=rank, alpha=share_of_alpha(scale_of(layer) * rank))


def copied(tensor: Tensor) -> Tensor:
    """Copy a tensor, since those of a file must not share their memory."""
    return tensor.clone(memory_format=torch.contiguous_format)


def share_of_alpha(exact: Fraction) -> float:
    """Round a part of an alpha, to few digits where it misses them by a rounding: 0.3 / 3."""
    alpha = float(exact)
    decimal = float(f"{alpha:.7g}")
    return decimal if math.isclose(decimal, alpha, rel_tol=1e-14) else alpha


def find_blocks(parts: Sequence[Tensor]) -> list[int]:
    """Find the number of columns of each part's block of an up projection; empty without blocks.

    Equal blocks come first, for parts that are zero throughout. Zero columns elsewhere go to the
    part before them.
    """
    used = torch.stack([part.ne(0).any(0) for part in parts])
    count, columns = used.shape
    if columns % count == 0:
        inside = torch.block_diag(*[torch.ones(1, columns // count, dtype=torch.bool)] * count)
        if not (used & ~inside).any():
            return [columns // count] * count
    if (used.sum(0) > 1).any() or not used.any():
        return []
    owners: list[int] = []
    for column in used.T.tolist():
        owners.append(column.index(True) if True in column else owners[-1] if owners else -1)
    first = next(owner for owner in owners if owner >= 0)
    owners = [first if owner < 0 else owner for owner in owners]
    if any(before > after for before, after in pairwise(owners)):
        return []
    return [owners.count(index) for index in range(count)]


def split_kronecker(layer: LayerChange, shares: Sequence[int]) -> list[LayerChange | None]:
    """Split a LoKr along its first factor, or as the LoRA that it is equal to.

    Raises:
        InseparableLayerError: the parts begin inside a block, and the second factor has full rank.
    """
    name = block_name(layer)
    blocks = layer.tensors[name]
    if len(blocks) % sum(shares):
        return split_layer(expand_kronecker(layer), shares)
    rows = [share * len(blocks) // sum(shares) for share in shares]
    return [
        replace(layer, tensors={key: copied(tensor) for key, tensor in {**layer.tensors, name: block}.items()})
        if block.any()
        else None
        for block in blocks.split(rows)
    ]


def expand_kronecker(layer: LayerChange) -> LayerChange:
    """Write a LoKr whose second factor has a low rank as the LoRA that it is equal to.

    kron(U, BA) = kron(I, B) kron(U, A) = kron(U, B) kron(I, A): the rank is that of the second
    factor times the smaller side of the first.

    Raises:
        InseparableLayerError: the second factor has full rank, or the LoRA would have a huge one.
    """
    if not {".lokr_w2_a", ".lokr_w2_b"} <= layer.tensors.keys() or ".lokr_t2" in layer.tensors:
        raise InseparableLayerError(
            "its parts begin inside a block of its Kronecker product, whose second factor is full"
        )
    first = layer.tensors[block_name(layer)].float()
    if ".lokr_w1_b" in layer.tensors:
        first = first @ layer.tensors[".lokr_w1_b"].float()
    up, down = layer.tensors[".lokr_w2_a"].float(), layer.tensors[".lokr_w2_b"].float()
    side = min(first.shape)
    rank = side * len(down)
    if rank > MOST_RANK:
        raise InseparableLayerError(f"it is equal to a LoRA of rank {rank} only, above {MOST_RANK}")
    unit = torch.eye(side)
    outputs_first = len(first) <= first.shape[1]
    tensors = {
        DOWN: torch.kron(first if outputs_first else unit, down),
        UP: torch.kron(unit if outputs_first else first, up),
    }
    return LayerChange(tensors=tensors, rank=rank, alpha=float(scale_of(layer) * rank))


def find_fault(layer: LayerChange) -> str | None:
    """Say why a linear layer cannot be split or joined, as a verb phrase; None where it can."""
    tensors = layer.tensors
    known = {*PAIRS, *PAIRS.values(), *KRONECKER, ".lokr_w2"}
    if any(name not in known or tensor.ndim != 2 for name, tensor in tensors.items() if name != MAGNITUDE):
        return "has a factor that is no matrix"
    pairs = [(name, other) for name, other in PAIRS.items() if name in tensors or other in tensors]
    if any(not {name, other} <= tensors.keys() for name, other in pairs):
        return "lacks a factor of its weights"
    if any(tensors[name].shape[1] != tensors[other].shape[0] for name, other in pairs):
        return "has factors that do not fit each other"
    if is_kronecker(layer):
        sides = [sum(name in tensors for name in (f".lokr_w{side}", f".lokr_w{side}_a")) for side in (1, 2)]
        return None if sides == [1, 1] and len(tensors) == 2 + len(pairs) else "has a factor too few or too many"
    shapes = {(len(tensors[name]), tensors[other].shape[1]) for name, other in pairs}
    return None if len(shapes) == 1 else "has factors that do not fit each other"
