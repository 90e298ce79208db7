"""TODO adapters.peft_layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mascot.errors import UserError, list_some

ADAPTER = "default"


VARIANTS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "lora": (LoraConfig, {}),
    "rslora": (LoraConfig, {"use_rslora": True}),
    "dora": (LoraConfig, {"use_dora": True}),
    "loha": (LoHaConfig, {}),
    "lokr": (LoKrConfig, {}),
}
"""Variant -> peft's class for it, and its options.

rsLoRA divides alpha by the rank's root (Kalajdzievski 2023, arXiv 2312.03732); DoRA learns sizes beside directions (Liu et al. 2024, arXiv
2402.09353); LoHa and LoKr multiply two small changes element by element (Hyeon-Woo et al. 2022, arXiv 2108.06098) and as a Kronecker
product (Yeh et al. 2023, arXiv 2309.14859). LoCon is LoRA on `layers = "all"`. diffusers 0.42 reads the first two, and a DoRA of the
denoiser; it misreads a DoRA of the text encoder and refuses the last two.
"""


UNFIT: Mapping[str, tuple[str, ...]] = {
    "dora": ("is_loaded_in_8bit",), "loha": ("is_loaded_in_4bit",), "lokr": ("is_loaded_in_4bit",),
}  # fmt: skip
"""Variant -> marks of quantised bases on which it fails inside peft or bitsandbytes."""


MAGNITUDE = ".lora_magnitude_vector"


MARKS = (".lora_", ".hada_", ".lokr_")
"""What the names of adapters' tensors hold."""


def unwrap(modules: Mapping[str, nn.Module]) -> None:
    """Replace every adapted layer by the layer it wraps."""
    for module in modules.values():
        for name, layer in lora_layers(module):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
        del module.peft_config


def make_config(variant: str, rank: int, alpha: float, layers: list[str]) -> Any:
    """Give peft's configuration of one variant."""
    kind, options = VARIANTS[variant]
    scale = {"lora_alpha" if kind is LoraConfig else "alpha": alpha}
    return kind(r=rank, target_modules=layers, **scale, **options)


def in_full_precision(module: nn.Module) -> None:
    """Keep changes in float32 beside their layers' weights, whatever those are in."""
    device = next(module.parameters()).device
    for _, layer in lora_layers(module):
        for parameter in changes_of(layer):
            parameter.data = parameter.data.float().to(device)


def changes_of(layer: Any) -> Iterator[nn.Parameter]:
    """What learns in an adapted layer."""
    for changes in (getattr(layer, group) for group in layer.adapter_layer_names):
        if ADAPTER in changes:
            yield from (changes[ADAPTER],) if isinstance(changes, nn.ParameterDict) else changes[ADAPTER].parameters()


def misfits(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that have no place of their shape in an adapted module, and of places that have no tensor."""
    places = {key: tensor.shape for key, tensor in get_peft_model_state_dict(module, adapter_name=ADAPTER).items()}
    given = {key: tensor.shape for key, tensor in tensors.items()}
    return sorted({key for key, _ in places.items() ^ given.items()})


def config_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Any:
    """Read kind and ranks off the tensors and alphas off the metadata; without metadata alpha is the rank, as in diffusers."""
    mark = next(mark for mark in MARKS if mark in next(iter(tensors)))
    try:
        return lora_from(tensors, facts) if mark == ".lora_" else product_from(mark, tensors, facts)
    except (TypeError, ValueError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error


def lora_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> LoraConfig:
    """The configuration of a LoRA, an rsLoRA or a DoRA."""
    ranks = {
        key.removesuffix(".lora_A.weight"): len(tensor)
        for key, tensor in tensors.items()
        if key.endswith(".lora_A.weight")
    }
    rank = int(facts.get("r", max(ranks.values())))
    patterns = {name: r for name, r in ranks.items() if r != rank}
    options: dict[str, Any] = {
        "lora_alpha": float(facts.get("lora_alpha", rank)), "rank_pattern": patterns, "use_rslora": bool(facts.get("use_rslora", False)),
        "alpha_pattern": dict(facts.get("alpha_pattern") or ({} if facts else patterns)),
        "use_dora": any(key.endswith(MAGNITUDE) for key in tensors),
    }  # fmt: skip
    return LoraConfig(r=rank, target_modules=list(ranks), **options)


def product_from(mark: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Any:
    """The configuration of a LoHa or a LoKr, whose tensors do not say all of it.

    Raises:
        UserError: the metadata is missing.
    """
    if "r" not in facts or "alpha" not in facts:
        raise UserError(
            "this adapter does not say its rank and alpha, without which it cannot be read; export it again with its metadata."
        )
    kind, names = (LoHaConfig if mark == ".hada_" else LoKrConfig), {key.partition(mark)[0] for key in tensors}
    return kind(r=int(facts["r"]), alpha=float(facts["alpha"]), target_modules=sorted(names))  # pyright: ignore[reportArgumentType]


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have no layer of their shape in the module."""
    layers = dict(module.named_modules())
    wrong: list[str] = []
    for key, tensor in tensors.items():
        name = re.sub(r"\.lora_([AB]\.weight|magnitude_vector)$", "", key)
        shape = shape_of(layers.get(name))
        if shape is None or name == key:
            wrong.append(key)
        elif not has_shape_for(key, tensor, shape):
            wrong.append(f"{key} {tuple(tensor.shape)}")
        elif key.endswith(MAGNITUDE):
            continue
        elif key.replace(".lora_A.", ".lora_B.") not in tensors or key.replace(".lora_B.", ".lora_A.") not in tensors:
            wrong.append(f"{key} (without its other half)")
        elif ".lora_A." in key and tensor.shape[:1] != tensors[key.replace(".lora_A.", ".lora_B.")].shape[1:2]:
            wrong.append(f"{key} (its other half has another rank)")
    if wrong:
        raise UserError(
            f"this adapter does not fit the base: {len(wrong)} of its {len(tensors)} keys have no layer, {list_some(wrong)}."
        )


def shape_of(layer: nn.Module | None) -> tuple[int, ...] | None:
    """The shape of a layer's weight, out first; quantised layers hold it in another. None where nothing can be changed."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def has_shape_for(key: str, tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether one half of a change reads what its layer reads, or writes what it writes; a DoRA's sizes are one for each row."""
    if key.endswith(MAGNITUDE):
        return tensor.numel() == shape[0]
    if tensor.ndim != len(shape) or 0 in tensor.shape:
        return False
    return tuple(tensor.shape[1:]) == shape[1:] if ".lora_A." in key else len(tensor) == shape[0]


def lora_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Every adapted layer with its name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]


def peft_config(module: nn.Module) -> dict[str, Any]:
    """The settings that peft keeps on an adapted module."""
    configs: Any = module.peft_config
    return configs[ADAPTER].to_dict()
