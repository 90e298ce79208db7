"""The weights of a module as a sum: those of the base, and what adapters of whole weights add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypedDict

import torch
from torch import Tensor, nn

from mascot.adapters.peft_layers import adapter_parameters, lora_layers
from mascot.adapters.stacked_layers import name_in_base

Weights = Mapping[str, nn.Parameter]
"""Every parameter of a module, under its name."""


class WeightsAndLayers(TypedDict):
    """A module's parameters, and the layers that hold them, by name."""

    layers: Mapping[str, nn.Module]
    base: Weights


@dataclass(slots=True, kw_only=True)
class TrainedWeights:
    """The trained weights of one part in a loaded adapter, and their present strength."""

    weights: Weights
    strength: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSum:
    """The weights of one part: the base model's, and those of all adapters that change them.

    They stay on the module's device, and the base's parameters are never written to.
    """

    layers: Mapping[str, nn.Module]
    """Name of a parameter -> the layer that holds it, inside those of low-rank adapters."""
    base: Weights
    added: list[TrainedWeights] = field(default_factory=list[TrainedWeights])

    def update(self) -> None:
        """Use base + sum of strength x (trained - base), which is the base alone at 0."""
        for name, weight in self.weights().items():
            setattr(self.layers[name], name.rpartition(".")[2], weight)

    def weights(self) -> Weights:
        """Compute the weights; one adapter at 1 gives exactly the trained ones."""
        active = [one for one in self.added if one.strength]
        if not active:
            return self.base
        if len(active) == 1 and active[0].strength == 1:
            return active[0].weights
        return {
            name: nn.Parameter(sum_weights(weight, name, active), requires_grad=False)
            for name, weight in self.base.items()
        }


@torch.no_grad()
def sum_weights(base: Tensor, name: str, active: Sequence[TrainedWeights]) -> Tensor:
    """Add the changes of one weight by several adapters to the base's, in float32."""
    first, *others = active
    total = torch.lerp(base.float(), first.weights[name], first.strength)
    for one in others:
        total += one.strength * (one.weights[name] - base.float())
    return total


SUM: Final = "weight_sum"
"""Attribute of a module that has a `WeightSum`."""


def sum_of(module: nn.Module) -> WeightSum:
    """Return the `WeightSum` that a module has, or a new one of its present weights."""
    found: WeightSum | None = getattr(module, SUM, None)
    return found if found is not None else WeightSum(**weights_of_base(module))


def shapes_of_base(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's state as it is without low-rank adapters, by name."""
    values = dict(module.named_parameters(remove_duplicate=False)) | dict(module.state_dict(keep_vars=True))
    own = parameters_of_adapters(module)
    return {
        name_in_base(name): tuple(values[name].shape) for name in module.state_dict() if id(values[name]) not in own
    }


def weights_of_base(module: nn.Module) -> WeightsAndLayers:
    """Collect a module's own parameters and the layers that hold them.

    Both have the names that they have without low-rank adapters, which put layers around others.
    """
    layers: dict[str, nn.Module] = {}
    base: dict[str, nn.Parameter] = {}
    own = parameters_of_adapters(module)
    for name, weight in weights_of(module).items():
        if id(weight) in own:
            continue
        path, _, leaf = name_in_base(name).rpartition(".")
        layer = module.get_submodule(path)
        while isinstance(inner := getattr(layer, "base_layer", None), nn.Module):
            layer = inner
        full = f"{path}.{leaf}".lstrip(".")
        layers[full], base[full] = layer, weight
    return {"layers": layers, "base": base}


def parameters_of_adapters(module: nn.Module) -> set[int]:
    """Collect the ids of the parameters that low-rank adapters have added to a module."""
    layers = [layer for _, layer in lora_layers(module)]
    return {id(weight) for layer in layers for adapter in layer.r for weight in adapter_parameters(layer, adapter)}


def weights_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Collect every parameter of a module under its name."""
    weights = dict(module.named_parameters(remove_duplicate=False))
    assert len({id(weight) for weight in weights.values()}) == len(weights), "no two layers share a weight"
    return weights
