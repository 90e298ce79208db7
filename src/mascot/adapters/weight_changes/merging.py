"""The sum of several adapters' weight changes, and of their words.

A sum of averages is not an average of sums: the mean of the factors of two adapters is no mean of
their changes. So changes are added, each at its own scale, and never factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mascot.adapters.headers.adapter_facts import without_header
from mascot.adapters.lora_keys import DOWN, METADATA_KEY, UP
from mascot.adapters.sides import TEXT_ENCODERS, sides_of
from mascot.adapters.token_rows import (
    BUNDLE,
    ENCODERS,
    RECORDS_KEY,
    TokenRecord,
    bundle_prefix,
    read_records,
    write_records,
)
from mascot.adapters.weight_changes.low_rank import (
    TENSOR,
    StoredLayer,
    WeightChange,
    as_factors,
    change_of,
    read_layers,
    to_tensors,
    total,
)
from mascot.errors import UserError, list_some

Kernels = Mapping[str, tuple[int, ...]]
"""Layer -> height and width of its kernel in the base; empty for a linear layer."""
OF_THE_BASE = ("modelspec.architecture", "modelspec.prediction_type", "ss_base_model_version")
"""Keys of a header that speak of the base, and so hold for a sum of its adapters too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledAdapter:
    """One adapter of a sum: its tensors, and the scales of its two sides."""

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    scale: float = 1.0
    text_scale: float = 1.0

    def scale_of(self, layer: str) -> float:
        """Return the scale of a layer, by its side."""
        return self.text_scale if TEXT_ENCODERS in sides_of([layer]) else self.scale

    @property
    def layers(self) -> dict[str, StoredLayer]:
        """The low-rank layers whose scale is not 0."""
        found = read_layers(self.tensors, self.metadata)
        return {name: layer for name, layer in found.items() if self.scale_of(name) != 0}

    @property
    def others(self) -> list[str]:
        """The tensors that are neither of a low-rank layer nor of a word: whole weights."""
        words = self.word_keys
        return [key for key in self.tensors if not TENSOR.match(key) and key not in words]

    @property
    def words(self) -> dict[str, Tensor]:
        """The tensors of words, under the names that a file with more than words gives them."""
        bundled = {key: key for key in self.tensors if key.startswith(BUNDLE)}
        if not bundled and RECORDS_KEY in self.metadata:
            records = read_records(self.metadata)
            plain = [key for key in self.tensors if key in {*ENCODERS, records[0].token}]
            bundled = {f"{bundle_prefix(records[0].token)}{key}": key for key in plain}
        return {name: self.tensors[key] for name, key in bundled.items()}

    @property
    def word_keys(self) -> frozenset[str]:
        """The names of words' tensors in the file itself."""
        plain = {*ENCODERS, *(record.token for record in self.records)}
        return frozenset(key for key in self.tensors if key.startswith(BUNDLE) or key in plain)

    @property
    def records(self) -> tuple[TokenRecord, ...]:
        """What the metadata says of the words."""
        return read_records(self.metadata) if RECORDS_KEY in self.metadata else ()


def layers_of(adapters: Sequence[ScaledAdapter]) -> dict[str, list[tuple[ScaledAdapter, StoredLayer]]]:
    """Collect the layers of all adapters: layer -> the adapters that change it."""
    found: dict[str, list[tuple[ScaledAdapter, StoredLayer]]] = {}
    for adapter in adapters:
        for name, layer in adapter.layers.items():
            found.setdefault(name, []).append((adapter, layer))
    return found


def summed_changes(adapters: Sequence[ScaledAdapter], kernels: Kernels) -> Iterator[tuple[str, WeightChange]]:
    """Yield the sum of all adapters' changes of each layer, exactly.

    Raises:
        UserError: an adapter's change depends on the base's weights, or two adapters change a layer
            of different shapes.
    """
    for name, found in layers_of(adapters).items():
        yield name, total([scaled_change(adapter, layer, kernels) for adapter, layer in found])


class SummedTensors(Mapping[str, Tensor]):
    """The tensors of the exact sum of adapters, each layer computed when it is asked for.

    So the sum of two large files needs no memory of its own. One layer is remembered. `beside` are
    tensors that the file holds too.
    """

    def __init__(
        self, adapters: Sequence[ScaledAdapter], kernels: Kernels, dtype: torch.dtype, beside: Mapping[str, Tensor]
    ) -> None:
        self._beside = beside
        self._found, self._kernels, self._dtype = layers_of(adapters), kernels, dtype
        self._names = {f"{layer}{ending}": layer for layer in self._found for ending in (DOWN, UP)}
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def __getitem__(self, name: str) -> Tensor:
        """Compute one tensor.

        Raises:
            UserError: the adapters change the layer in different shapes.
        """
        if name in self._beside:
            return self._beside[name]
        layer = self._names[name]
        if self._last[0] != layer:
            change = total([scaled_change(*found, self._kernels) for found in self._found[layer]])
            self._last = (layer, to_tensors(layer, as_factors(change), self._dtype))
        return self._last[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._names, *self._beside])

    def __len__(self) -> int:
        return len(self._names) + len(self._beside)


def scaled_change(adapter: ScaledAdapter, layer: StoredLayer, kernels: Kernels) -> WeightChange:
    """Compute one adapter's change of a layer at its scale."""
    kernel = kernels.get(layer.name)
    return change_of(layer, adapter.tensors, kernel).scaled(adapter.scale_of(layer.name))


def check_addable(adapters: Sequence[ScaledAdapter]) -> None:
    """Refuse adapters whose changes cannot be added without the base.

    Raises:
        UserError: one is a DoRA, or holds whole weights.
    """
    for adapter in adapters:
        if any(layer.has_magnitudes for layer in adapter.layers.values()):
            raise UserError(
                f"{adapter.name} is a DoRA, whose change depends on the weights of the base, so that it is no sum of "
                "products; bake it into a base with --into BASE."
            )
        if adapter.others:
            raise UserError(
                f"{adapter.name} holds whole weights ({list_some(adapter.others)}), not low-rank changes; "
                "bake it into a base with --into BASE, or extract a LoRA from it first with mascot extract."
            )


def needs_kernels(adapters: Sequence[ScaledAdapter]) -> bool:
    """Tell whether the tensors of some layer leave open whether it is a convolution."""
    return any(
        not layer.states_kernel and may_be_convolution(layer) for one in adapters for layer in one.layers.values()
    )


def may_be_convolution(layer: StoredLayer) -> bool:
    """Tell by a layer's name whether it may be a convolution in some base."""
    last = layer.name.split(".")[-2:]
    named = any("conv" in word or word in {"proj_in", "proj_out", "op"} for word in last)
    return named and not {"hada_t1", "lokr_t2"} & layer.keys.keys()


def join_words(adapters: Sequence[ScaledAdapter]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Join the words of all adapters, and the metadata that tells of them.

    Raises:
        UserError: two adapters hold one word with different rows.
    """
    tensors: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    records: dict[str, TokenRecord] = {}
    for adapter in adapters:
        for key, rows_ND in adapter.words.items():
            known = tensors.setdefault(key, rows_ND)
            if known is not rows_ND and not (known.shape == rows_ND.shape and torch.equal(known, rows_ND)):
                word = key.removeprefix(BUNDLE).rpartition(".")[0]
                raise UserError(
                    f"{owners[key]} and {adapter.name} both hold the word {word!r}, with different embeddings; "
                    "train one of them with another --token, or leave one of them out."
                )
            owners[key] = adapter.name
        records |= {record.token: record for record in adapter.records}
    return tensors, write_records(list(records.values())) if records else {}


def common_dtype(adapters: Sequence[ScaledAdapter]) -> torch.dtype:
    """Return the type of a sum's tensors: that of the inputs, or float32 where they differ.

    Types of 8 bits become float16.
    """
    found = {
        adapter.tensors[key].dtype
        for adapter in adapters
        for layer in adapter.layers.values()
        for key in layer.keys.values()
    }
    if len(found) != 1:
        return torch.float32
    dtype = found.pop()
    return torch.float16 if dtype.itemsize == 1 else dtype


def other_metadata(adapters: Sequence[ScaledAdapter]) -> dict[str, str]:
    """Keep the texts of the first adapter's header that say nothing about it alone.

    What all headers that speak of their base say alike is kept, as layers may not tell it.
    """
    first = without_header(adapters[0].metadata)
    rest = {key: value for key, value in first.items() if not key.endswith((METADATA_KEY, RECORDS_KEY))}
    stated = {key: {one.metadata[key] for one in adapters if key in one.metadata} for key in OF_THE_BASE}
    return rest | {key: values.pop() for key, values in stated.items() if len(values) == 1}
