"""Several adapters in one layer: adding, scaling and removing one leaves the others as they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lokr.layer import LoKrLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mascot.adapters.peft_layers import ADAPTER, cast_to_float32, load_factors, lora_layers, mismatched_keys

KINDS: tuple[type[PeftConfig], ...] = (LoraConfig, LoHaConfig, LoKrConfig)
"""Kinds of layers, in the order of TENSOR_MARKS."""
LAYER_KINDS: Mapping[type[BaseTunerLayer], type[PeftConfig]] = {
    LoraLayer: LoraConfig,
    LoHaLayer: LoHaConfig,
    LoKrLayer: LoKrConfig,
}
"""Class of peft's layers -> their kind."""


def unwrap(modules: Iterable[nn.Module], adapter: str = ADAPTER) -> None:
    """Remove an adapter; a layer without another is replaced by the layer inside it."""
    for module in modules:
        for name, layer in reversed(lora_layers(module)):  # inner layers first
            if adapter not in layer.r:
                continue
            activate(layer, [other for other in active_adapters(layer) if other != adapter])
            layer.delete_adapter(adapter)
            getattr(layer, "lora_variant", {}).pop(adapter, None)  # peft forgets this, and would use it again
            if not layer.r:
                put(module, name, layer.base_layer)
        configs: Any = module.peft_config
        del configs[adapter]
        if not configs:
            del module.peft_config


def name_in_base(name: str) -> str:
    """Name a layer or a parameter as the base does, which has no layers around others."""
    return re.sub(r"(\.base_layer)+(?=\.|$)", "", name)


def active_adapters(layer: Any) -> list[str]:
    """List the adapters of a layer that are switched on."""
    return [] if layer.disable_adapters else list(layer.active_adapters)


def activate(layer: Any, adapters: Iterable[str]) -> None:
    """Switch adapters of a layer on, in the order in which they were added, and all others off.

    Without any the layer computes exactly what the layer inside it does.
    """
    wanted = set(adapters)
    active = [adapter for adapter in layer.r if adapter in wanted]
    layer.set_adapter(active, inference_mode=True)
    layer.enable_adapters(enabled=bool(active))
    layer.set_adapter(active, inference_mode=True)  # peft makes every parameter trainable that it enables


def set_strength(modules: Iterable[nn.Module], adapter: str, strength: float) -> None:
    """Set the strength of an adapter in some modules; at 0 it is switched off."""
    for module in modules:
        for _, layer in lora_layers(module):
            if adapter in layer.r:
                layer.set_scale(adapter, strength)
                others = [other for other in active_adapters(layer) if other != adapter]
                activate(layer, [*others, adapter] if strength else others)


def unused_name(modules: Iterable[nn.Module]) -> str:
    """Return a name for one more adapter in some modules."""
    names = {name for module in modules for name in getattr(module, "peft_config", {})}
    return next(name for number in range(len(names) + 1) if (name := f"{ADAPTER}{number or ''}") not in names)


def inject(module: nn.Module, config: Any, tensors: Mapping[str, Tensor], adapter: str) -> list[str]:
    """Add an adapter to a module beside those that it has, at full strength.

    Returns the names of tensors that fit no layer, or are missing; then nothing is loaded.
    """
    before = {id(layer): active_adapters(layer) for _, layer in lora_layers(module)}
    with outer_layers_apart(module, type(config)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(config, module, adapter_name=adapter)
        if type(config) is not LoraConfig:
            load_factors(module, tensors, adapter)
        cast_to_float32(module, adapter)
        wrong = mismatched_keys(module, tensors, adapter)
        if not wrong:
            set_peft_model_state_dict(module, dict(tensors), adapter_name=adapter)
    for _, layer in lora_layers(module):
        activate(layer, [*before.get(id(layer), ()), adapter])
    module.requires_grad_(requires_grad=False).eval()
    return wrong


@contextmanager
def outer_layers_apart(module: nn.Module, kind: type[PeftConfig]) -> Generator[None]:
    """Take off the layers that belong around those of a kind, while the context lasts.

    Layers of several kinds on one layer of the base always lie in the order of `KINDS`, the first
    innermost. So all LoRAs of a layer are in one layer of peft, which adds them up as diffusers
    does; the other kinds add their own changes around it.
    """
    outside = set(KINDS[KINDS.index(kind) + 1 :])
    apart: list[tuple[str, Any, Any]] = []
    for name, layer in lora_layers(module):
        if name.endswith(".base_layer") or kind_of(layer) not in outside:
            continue
        last = layer
        while kind_of(last.base_layer) in outside:
            last = last.base_layer
        apart.append((name, layer, last))
        put(module, name, last.base_layer)
    try:
        yield
    finally:
        for name, first, last in apart:
            last.base_layer = module.get_submodule(name)
            put(module, name, first)


def kind_of(layer: nn.Module) -> type[PeftConfig] | None:
    """Tell the kind of one of peft's layers; None for a layer of the base."""
    return next((kind for layers, kind in LAYER_KINDS.items() if isinstance(layer, layers)), None)


def put(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another one."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
