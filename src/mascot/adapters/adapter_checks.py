"""Checks of an adapter file that need no base model: numbers, names, pairs and ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mascot.adapters.foreign_formats import describe_foreign
from mascot.adapters.lora_keys import DOWN, MAGNITUDE, METADATA_KEY, MOST_RANK, UP, PartSettings, read_settings
from mascot.adapters.token_rows import BUNDLE, ENCODERS, RECORDS_KEY, read_records
from mascot.errors import UserError, list_some, shorten

AGAIN = "get the file again from where it comes from, or train it again."
"""Remedy for a damaged file."""
LARGEST_PRODUCT = 1e12
"""Bound of a down projection's largest value times the up projection's, beyond any healthy one."""
LARGEST_ROW = 1e4
"""Bound of a word's values; those of text encoders are below 10."""
STAGE = re.compile(r"^stage\d+\.")
"""How names of a later stage of a base begin."""
PART = re.compile(r"(stage\d+\.)?(unet|transformer|text_encoder(_\d+)?)\.")
"""How names of a part's tensors begin."""
PEFT_PREFIX = "base_model.model."
"""How peft's own names begin, after the part."""
PRODUCT_TENSOR = re.compile(r"^(?P<layer>.+)\.(?P<kind>hada|lokr)_(?P<name>\w+)$")
"""Name of a tensor of a LoHa or a LoKr."""
FACTORS: Mapping[str, tuple[tuple[frozenset[str], ...], ...]] = {
    "hada": tuple((frozenset({name}),) for name in ("w1_a", "w1_b", "w2_a", "w2_b")),
    "lokr": tuple((frozenset({name}), frozenset({f"{name}_a", f"{name}_b"})) for name in ("w1", "w2")),
}
"""Kind -> what each layer needs: one of several sets of tensors, for each factor."""


def check_adapter(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Check the content of an adapter file in our form.

    Raises:
        UserError: it has NaN or infinite weights, an incomplete layer, or metadata that contradicts
            its tensors.
    """
    check_finite(path, tensors)
    try:
        faults = list(low_rank_faults(tensors, metadata))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if faults:
        raise UserError(f"{path} is damaged: {list_some(faults)}; {AGAIN}")


def check_words(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Check what is beside the low-rank layers of an adapter file in our form.

    Raises:
        UserError: it is empty, or has tensors of no part and no word, or rows that are none.
    """
    if not tensors:
        raise UserError(f"{path}: this adapter is empty; train or export it again.")
    try:
        faults = list(word_faults(tensors, metadata))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if faults:
        raise UserError(f"{path} is damaged: {list_some(faults)}; {AGAIN}")


def check_foreign(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check the content of another tool's file, under its own names.

    Raises:
        UserError: it is no low-rank adapter, or has NaN or infinite weights.
    """
    found = describe_foreign({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    if found is not None:
        raise UserError(f"{path} is {found[0]}, which mascot does not read as an adapter; {found[1]}.")
    check_finite(path, tensors)


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        UserError: it names the tensors.
    """
    wrong = [key for key, tensor in tensors.items() if not is_finite(tensor)]
    if wrong:
        raise UserError(f"{path} has NaN or infinite weights, in {list_some(wrong)}; {AGAIN}")


def is_finite(tensor: Tensor) -> bool:
    """Tell whether all values of a tensor are finite; 8-bit floats are compared as float32."""
    values = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(values).all())


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value of a tensor; 8-bit floats are compared as float32."""
    values = tensor.float() if tensor.element_size() == 1 else tensor
    return float(values.abs().max())


def low_rank_faults(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[str]:
    """Describe what is wrong with the low-rank layers of a file, layer by layer.

    Raises:
        UserError: the metadata cannot be read.
    """
    settings = settings_by_part(metadata)
    low_rank = [key for key in tensors if ".lora_" in key or PRODUCT_TENSOR.match(key)]
    for key in low_rank:
        if not tensors[key].is_floating_point():
            yield f"{key} holds whole numbers"
        elif 0 in tensors[key].shape:
            yield f"{key} is empty"
    yield from pair_faults(tensors, settings)
    yield from product_faults(tensors, settings)


def settings_by_part(metadata: Mapping[str, str]) -> dict[str, PartSettings]:
    """Read the settings of all parts, those of later stages under the prefix of their stage.

    Raises:
        UserError: the metadata cannot be read.
    """
    return {
        f"{key.removesuffix(METADATA_KEY)}{part}": value
        for key in metadata
        if key.endswith(METADATA_KEY)
        for part, value in read_settings(metadata, key).items()
    }


def word_faults(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[str]:
    """Describe tensors that are of no part, and are no rows of a word that the metadata name.

    Raises:
        UserError: the metadata cannot be read.
    """
    others = [key for key in tensors if not PART.match(key)]
    named = any(key.endswith(RECORDS_KEY) for key in metadata)
    if not named and len(others) == len(tensors):
        return  # what is missing is said where the words are restored
    tokens = {
        record.token
        for key in metadata
        if key.endswith(RECORDS_KEY)
        for record in read_records({RECORDS_KEY: metadata[key]})
    }
    for key in others:
        name = STAGE.sub("", key)
        if name not in tokens and name not in ENCODERS and not name.startswith(BUNDLE):
            yield f"{shorten(key)} is of no layer and no word"
        elif fault := row_fault(f"the word's tensor {shorten(key)}", tensors[key]):
            yield fault


def row_fault(name: str, rows_ND: Tensor) -> str:
    """Say what makes rows of a word useless; empty where nothing does."""
    if rows_ND.numel() == 0:
        return f"{name} is empty"
    if rows_ND.ndim not in {1, 2} or not rows_ND.is_floating_point():
        return f"{name} is no row of an embedding"
    if not is_finite(rows_ND):
        return f"{name} has NaN or infinite values"
    return f"{name} has values beyond {LARGEST_ROW:g}" if largest(rows_ND) > LARGEST_ROW else ""


def pair_faults(tensors: Mapping[str, Tensor], settings: Mapping[str, PartSettings]) -> Iterator[str]:
    """Describe LoRA layers without one of their projections or magnitudes, or with two ranks."""
    has_magnitudes = {part_of(key) for key in tensors if key.endswith(MAGNITUDE)}
    for key, tensor in tensors.items():
        if key.endswith(UP) and key.removesuffix(UP) + DOWN not in tensors:
            yield f"{key} is without its other half"
        if not key.endswith(DOWN):
            continue
        layer = key.removesuffix(DOWN)
        if part_of(key) in has_magnitudes and layer + MAGNITUDE not in tensors:
            yield f"{layer} lacks its magnitudes"
        up = tensors.get(layer + UP)
        if up is None:
            yield f"{key} is without its other half"
        elif tensor.ndim < 2 or up.ndim < 2:
            yield f"{key if tensor.ndim < 2 else layer + UP} is no matrix"
        elif tensor.shape[0] != up.shape[1]:
            yield f"{key} has rank {tensor.shape[0]}, and its other half {up.shape[1]}"
        elif 0 in (*tensor.shape, *up.shape) or not (tensor.is_floating_point() and up.is_floating_point()):
            continue  # said by the caller
        elif largest(tensor) * largest(up) > LARGEST_PRODUCT:
            yield f"{key} times its other half is beyond {LARGEST_PRODUCT:g}"
        else:
            yield from rank_faults(key, layer, tensor.shape[0], settings)


def product_faults(tensors: Mapping[str, Tensor], settings: Mapping[str, PartSettings]) -> Iterator[str]:
    """Describe layers of a LoHa or LoKr that lack a factor, or have another rank than recorded."""
    layers: dict[tuple[str, str], set[str]] = {}
    for key, tensor in tensors.items():
        match = PRODUCT_TENSOR.match(key)
        if match is None:
            continue
        layers.setdefault((match["layer"], match["kind"]), set()).add(match["name"])
        if match["name"] in {"w1_b", "w2_b"} and tensor.ndim >= 2:
            yield from rank_faults(key, match["layer"], tensor.shape[0], settings)
    for (layer, kind), names in layers.items():
        if not all(any(choice <= names for choice in choices) for choices in FACTORS[kind]):
            yield f"{layer} lacks a factor of its weights"


def rank_faults(key: str, layer: str, rank: int, settings: Mapping[str, PartSettings]) -> Iterator[str]:
    """Describe a rank that is too large, or that is not the one in the metadata."""
    if rank > MOST_RANK:
        yield f"{key} has rank {rank}, above {MOST_RANK}"
    part = part_of(layer)
    own = settings.get(part)
    name = layer.removeprefix(f"{part}.").removeprefix(PEFT_PREFIX)
    recorded = own.rank_of(name) if own is not None else None
    if recorded is not None and recorded != rank:
        yield f"{key} has rank {rank}, and its metadata says {recorded}"


def part_of(key: str) -> str:
    """Read the part off a tensor's name, with the prefix of its stage."""
    match = re.match(r"(stage\d+\.)?[^.]*", key)
    assert match is not None, "the pattern matches anything"
    return match[0]
