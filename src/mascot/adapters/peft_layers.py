"""Low-rank layers of peft: their configurations, their parameters, and checks that a file fits."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    get_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from mascot.adapters.lora_keys import DOWN, MAGNITUDE, TENSOR_MARKS, PartSettings, find_pattern
from mascot.errors import UserError, list_some

Value = TypeVar("Value", bound=Hashable)

ADAPTER = "default"
"""Name inside peft's layers of the adapter that is trained, and of the first that is applied."""
VARIANTS: Mapping[str, tuple[type[PeftConfig], Mapping[str, bool]]] = {
    "lora": (LoraConfig, {}),
    "rslora": (LoraConfig, {"use_rslora": True}),
    "dora": (LoraConfig, {"use_dora": True}),
    "loha": (LoHaConfig, {}),
    "lokr": (LoKrConfig, {}),
}
"""Variant -> peft's configuration class and its options.

- rsLoRA divides alpha by the square root of the rank (Kalajdzievski 2023, arXiv 2312.03732).
- DoRA trains magnitudes beside directions (Liu et al. 2024, arXiv 2402.09353).
- LoHa multiplies two low-rank matrices element by element (Hyeon-Woo et al. 2022, arXiv
  2108.06098).
- LoKr takes a Kronecker product of two small matrices (Yeh et al. 2023, arXiv 2309.14859).
- LoCon is LoRA with `layers = "all"`.

diffusers 0.42 reads LoRA, rsLoRA, and a DoRA of the denoiser. It misreads a DoRA of the text
encoder, and refuses LoHa and LoKr.
"""
UNSUPPORTED_QUANTIZATION: Mapping[str, tuple[str, ...]] = {
    "dora": ("is_loaded_in_8bit",),
    "loha": ("is_loaded_in_4bit",),
    "lokr": ("is_loaded_in_4bit",),
}
"""Variant -> attributes of quantized modules on which it fails inside peft or bitsandbytes."""


def lora_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """List the adapted layers of a module, each with its name.

    Layers of different kinds on one layer of the base lie inside each other, the outer one first.
    """
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]


def adapter_parameters(layer: Any, adapter: str = ADAPTER) -> Iterator[nn.Parameter]:
    """Yield the parameters of an adapter in a layer, each once.

    peft lists DoRA's magnitudes twice among a layer's groups.
    """
    for group in (getattr(layer, name) for name in dict.fromkeys(layer.adapter_layer_names)):
        if adapter in group:
            yield from (group[adapter],) if isinstance(group, nn.ParameterDict) else group[adapter].parameters()


@torch.no_grad()
def relative_change(layer: Any, adapter: str = ADAPTER) -> float:
    """Return the norm of what an adapted layer adds to its weights, as a share of their norm.

    The adapter is taken at full strength. A DoRA's weights are those with its magnitudes.
    """
    scaling = layer.scaling[adapter]
    layer.set_scale(adapter, 1.0)
    change = layer.get_delta_weight(adapter).float()
    layer.scaling[adapter] = scaling
    weight = full_weight(layer.get_base_layer())
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    if adapter in magnitudes:
        directed = (weight + change).flatten(1)
        scale = magnitudes[adapter].weight.detach().float().flatten() / directed.norm(dim=1)
        change = (scale[:, None] * directed).view_as(weight) - weight
    return (change.norm() / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)).item()


def full_weight(layer: Any) -> Tensor:
    """Return the weight of a base layer, quantized or not, in float32.

    peft's own function leaves an 8-bit layer without its scales.
    """
    weight = layer.weight
    if type(weight).__name__ != "Int8Params":
        return dequantize_module_weight(layer).detach().float()
    scales = layer.state.SCB if weight.SCB is None else weight.SCB
    return weight.data * (scales[:, None] / 127)


def disable_dropout(module: nn.Module) -> None:
    """Put the adapted layers into evaluation mode.

    peft's dropout of LoHa and LoKr draws a random number in each forward pass, even at a rate of 0.
    """
    for _, layer in lora_layers(module):
        layer.eval()


def peft_config(module: nn.Module) -> dict[str, Any]:
    """Read the settings that peft keeps on an adapted module."""
    configs: Any = module.peft_config
    return configs[ADAPTER].to_dict()


def cast_to_float32(module: nn.Module, adapter: str = ADAPTER) -> None:
    """Cast adapter parameters to float32, on the module's device, whatever the base's dtype."""
    device = next(module.parameters()).device
    for _, layer in lora_layers(module):
        for parameter in adapter_parameters(layer, adapter):
            parameter.data = parameter.data.float().to(device)


def make_config(variant: str, rank: int, alpha: float, layers: list[str]) -> Any:
    """Make peft's configuration of a variant, for the layers of these names."""
    kind, options = VARIANTS[variant]
    scale = {"lora_alpha" if kind is LoraConfig else "alpha": alpha}
    make: Any = kind
    return make(r=rank, target_modules=layers, **scale, **options)


def config_from(tensors: Mapping[str, Tensor], settings: PartSettings | None) -> Any:
    """Make the configuration of one part's tensors.

    The kind and the ranks are read from the tensors, alphas from `settings` (one part of
    `read_settings`). Without settings, alpha is the rank, as in diffusers.

    Raises:
        UserError: the settings are missing where the tensors do not suffice.
    """
    mark = next(mark for mark in TENSOR_MARKS if mark in next(iter(tensors)))
    return lora_config_from(tensors, settings) if mark == ".lora_" else product_config_from(mark, tensors, settings)


def lora_config_from(tensors: Mapping[str, Tensor], settings: PartSettings | None) -> LoraConfig:
    """Make the configuration of a LoRA, an rsLoRA or a DoRA."""
    ranks = {key.removesuffix(DOWN): len(tensor) for key, tensor in tensors.items() if key.endswith(DOWN)}
    given = settings or PartSettings()
    rank = max(ranks.values()) if given.r is None else given.r
    alphas = {name: float(r) if settings is None else given.alpha_of(name, rank) for name, r in ranks.items()}
    alpha: Any = float(rank) if given.lora_alpha is None else given.lora_alpha  # peft annotates a whole number
    return LoraConfig(
        r=rank,
        target_modules=exactly(ranks),
        lora_alpha=alpha,
        rank_pattern=patterns_of(ranks, rank),
        alpha_pattern=patterns_of(alphas, alpha),
        use_rslora=bool(given.use_rslora),
        use_dora=any(key.endswith(MAGNITUDE) for key in tensors),
    )


def product_config_from(mark: str, tensors: Mapping[str, Tensor], settings: PartSettings | None) -> Any:
    """Make the configuration of a LoHa or a LoKr, whose tensors alone do not determine it.

    Raises:
        UserError: the rank or alpha is missing in the settings.
    """
    if settings is None or settings.r is None or settings.alpha is None:
        raise UserError("this adapter's metadata lacks its rank or alpha; export it again with its metadata.")
    kind: Any = LoHaConfig if mark == ".hada_" else LoKrConfig
    names = sorted({key.partition(mark)[0] for key in tensors})
    alphas = {name: find_pattern(settings.alpha_pattern or {}, name, settings.alpha) for name in names}
    ranks = {name: settings.rank_of(name) for name in names}
    return kind(
        r=settings.r,
        alpha=settings.alpha,
        target_modules=exactly(names),
        rank_pattern=patterns_of(ranks, settings.r),
        alpha_pattern=patterns_of(alphas, settings.alpha),
    )


def exactly(names: Iterable[str]) -> str:
    """Write a pattern that matches these names and no longer ones, which end as they do."""
    return f"^(?:{'|'.join(map(re.escape, names))})"


def patterns_of(values: Mapping[str, Value], default: Value) -> dict[str, Value]:
    """Write peft's patterns of the layers that have another value: one for each value.

    peft compares each layer with each pattern, so one for each layer takes minutes in a file whose
    layers all have ranks of their own.
    """
    names: dict[Value, list[str]] = {}
    for name, value in values.items():
        if value != default:
            names.setdefault(value, []).append(name)
    return {exactly(same): value for value, same in names.items()}


def shaped_like_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a LoRA of 1 x 1 convolutions the shape of the weight that they change.

    Some tools write them as matrices, or those of linear layers as convolutions.
    """
    layers = dict(module.named_modules())
    shaped: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        shape = weight_shape(layers.get(re.sub(r"\.lora_[AB]\.weight$", "", key)))
        if shape is not None and tensor.ndim == 2 and shape[2:] == (1, 1):
            shaped[key] = tensor[..., None, None]
        elif shape is not None and len(shape) == 2 and tensor.shape[2:] == (1, 1):
            shaped[key] = tensor[..., 0, 0].contiguous()
        else:
            shaped[key] = tensor
    return shaped


def check_factors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Check that the factors of each layer of a LoHa or a LoKr multiply to its weight's shape.

    Raises:
        UserError: some layers are missing in the module, or have another shape.
    """
    layers = dict(module.named_modules())
    wrong: list[str] = []
    for name, factors in group_factors(tensors).items():
        shape = weight_shape(layers.get(name))
        if shape is None or product_size(factors) != (shape[0], math.prod(shape)):
            wrong += [f"{name}.{ending}" for ending in factors]
    if wrong:
        raise UserError(does_not_fit(wrong, len(tensors)))


def group_factors(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group the tensors of a LoHa or a LoKr by layer, under endings such as `hada_w1_a`."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, ending = key.rpartition(".")
        grouped.setdefault(name, {})[ending] = tensor
    return grouped


def product_size(factors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Give the outputs and the number of values of a LoHa's or a LoKr's weight change.

    None where its factors do not multiply at all.
    """
    if any(ending.startswith("hada_") for ending in factors):
        sizes = [factor_size(factors, f"hada_w{number}", f"hada_t{number}") for number in (1, 2)]
        return sizes[0] if sizes[0] == sizes[1] else None
    first, second = factor_size(factors, "lokr_w1", ""), factor_size(factors, "lokr_w2", "lokr_t2")
    return None if first is None or second is None else (first[0] * second[0], first[1] * second[1])


def factor_size(factors: Mapping[str, Tensor], name: str, core: str) -> tuple[int, int] | None:
    """Give the outputs and the number of values of one factor: whole, a product, or with a core."""
    if name in factors:
        whole = factors[name]
        return (whole.shape[0], whole.numel()) if whole.ndim > 1 else None
    left, right = factors.get(f"{name}_a"), factors.get(f"{name}_b")
    if left is None or right is None or left.ndim != 2 or right.ndim != 2:
        return None
    if core not in factors:
        return (left.shape[0], left.shape[0] * right.shape[1]) if left.shape[1] == right.shape[0] else None
    middle = factors[core]
    if tuple(middle.shape[:2]) != (left.shape[0], right.shape[0]):
        return None
    return left.shape[1], left.shape[1] * right.shape[1] * math.prod(middle.shape[2:])


def load_factors(module: nn.Module, tensors: Mapping[str, Tensor], adapter: str = ADAPTER) -> None:
    """Put the factors of a LoHa or a LoKr into the adapted layers, whatever ranks they have.

    Other tools choose factors by rules of their own, so the shapes that peft made are replaced.
    """
    factors = group_factors(tensors)
    device = next(module.parameters()).device
    for name, layer in lora_layers(module):
        if adapter not in layer.r:
            continue
        for kind in layer.adapter_layer_names:
            own = getattr(layer, kind)
            if adapter in own:
                del own[adapter]
        for kind, tensor in factors[name].items():
            getattr(layer, kind)[adapter] = nn.Parameter(tensor.detach().clone().float().to(device))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Check that each tensor of a LoRA or DoRA has a layer of its shape in the module.

    That its layers are whole is checked where the file is read (see `adapter_checks`).

    Raises:
        UserError: some tensors have no such layer; it names up to three of them.
    """
    layers = dict(module.named_modules())
    wrong: list[str] = []
    for key, tensor in tensors.items():
        name = re.sub(r"\.lora_([AB]\.weight|magnitude_vector)$", "", key)
        shape = weight_shape(layers.get(name))
        if shape is None or name == key:
            wrong.append(key)
        elif not fits(key, tensor, shape):
            wrong.append(f"{key} {tuple(tensor.shape)}")
    if wrong:
        raise UserError(does_not_fit(wrong, len(tensors)))


def does_not_fit(wrong: list[str], count: int) -> str:
    """Write the error message for some of a file's `count` tensors that do not fit the base."""
    return (
        f"this adapter does not fit the base: {len(wrong)} of its {count} keys have no layer, {list_some(wrong)}; "
        "use the base it was trained on."
    )


def weight_shape(layer: nn.Module | None) -> tuple[int, ...] | None:
    """Give the shape of a layer's weight, outputs first; None where there is no weight to adapt.

    Quantized layers store their weight in another shape, so linear layers are asked for sizes.
    """
    if isinstance(layer, BaseTunerLayer):
        layer = layer.get_base_layer()
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def fits(key: str, tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Tell whether a projection fits a layer's weight of that shape.

    The down projection must have the weight's inputs, the up projection its outputs. A DoRA has one
    magnitude for each output.
    """
    if key.endswith(MAGNITUDE):
        return tensor.numel() == shape[0]
    if tensor.ndim != len(shape) or 0 in tensor.shape:
        return False
    return tuple(tensor.shape[1:]) == shape[1:] if ".lora_A." in key else len(tensor) == shape[0]


def mismatched_keys(module: nn.Module, tensors: Mapping[str, Tensor], adapter: str = ADAPTER) -> list[str]:
    """List names that are in only one of an adapted module and a file, or in another shape."""
    expected = {key: tensor.shape for key, tensor in get_peft_model_state_dict(module, adapter_name=adapter).items()}
    given = {key: tensor.shape for key, tensor in tensors.items()}
    return sorted({key for key, _ in expected.items() ^ given.items()})
