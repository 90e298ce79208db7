"""Random low-rank layers of every kind, and peft's own opinion of what they add to a weight."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import Tensor, nn

from mascot.adapters.lora_keys import write_metadata
from mascot.diffusion.noise import seeded

Kind = Literal["lora", "rslora", "loha", "lokr", "effective loha", "effective lokr", "whole lokr"]
KINDS: Final[tuple[Kind, ...]] = (
    "lora",
    "rslora",
    "loha",
    "lokr",
    "effective loha",
    "effective lokr",
    "whole lokr",
)


class OneLayer(nn.Module):
    """A network of one layer, called `block.to_q`, or `block.conv1` if it is a convolution."""

    def __init__(self, outputs: int, inputs: int, side: int) -> None:
        super().__init__()
        self.name = "to_q" if side == 0 else "conv1"
        layer = nn.Linear(inputs, outputs) if side == 0 else nn.Conv2d(inputs, outputs, side, padding=side // 2)
        self.block = nn.ModuleDict({self.name: layer})

    @property
    def layer(self) -> Any:
        """The layer, with or without peft's around it."""
        return self.block[self.name]


def config_of(kind: Kind, name: str, rank: int, alpha: float) -> Any:
    """Make peft's settings of a kind."""
    if kind in {"lora", "rslora"}:
        return LoraConfig(r=rank, lora_alpha=alpha, target_modules=[name], use_rslora=kind == "rslora")  # pyright: ignore[reportArgumentType]
    make: Any = LoHaConfig if "loha" in kind else LoKrConfig
    whole = {"decompose_both": False, "decompose_factor": 2} if kind == "whole lokr" else {}
    size = 1000 if kind == "whole lokr" else rank
    return make(r=size, alpha=alpha, target_modules=[name], use_effective_conv2d="effective" in kind, **whole)


def random_adapter(
    kind: Kind, outputs: int, inputs: int, side: int, *, rank: int, alpha: float, seed: int
) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """Make an adapter of one layer: its tensors, its metadata, and the change that peft gives."""
    network = OneLayer(outputs, inputs, side)
    config = config_of(kind, network.name, rank, alpha)
    inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=seeded(seed, kind, name))
    tensors = {f"unet.{key}": value for key, value in get_peft_model_state_dict(network).items()}
    change: Tensor = network.layer.get_delta_weight("default").detach()
    return tensors, write_metadata({"unet": config.to_dict()}), change
