"""Frozen weights in 8 or 4 bits, so that a base takes a half or a quarter of the memory while something small learns on top of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from mascot.errors import UserError, extra, suggest
from mascot.models.weights import size_of

QuantizationName = Literal["int8", "nf4"]


FLAGS: dict[QuantizationName, str] = {"int8": "is_loaded_in_8bit", "nf4": "is_loaded_in_4bit"}
"""Kind -> what peft looks for on a module before it wraps such layers."""


DEVICES = ("cpu", "cuda", "xpu")
"""Where bitsandbytes trains through such layers."""


LEAST = 1024
"""Layers of fewer weights stay as they are: there is nothing to win."""


def repeated_layers(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Walk through the linear layers worth quantising: large ones in repeated blocks.

    The few before and after the blocks (embeddings of time, text and picture, the last projection) stay: they are small, and an error
    of theirs reaches everything.
    """
    lists = tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, nn.ModuleList))
    for name, layer in module.named_modules():
        if type(layer) is nn.Linear and layer.weight.numel() >= LEAST and name.startswith(lists):
            yield name, layer


def quantize(module: nn.Module, kind: QuantizationName, device: torch.device | str) -> int:
    """Replace the linear layers of a frozen module's blocks by quantised ones on a device, and give the bytes saved.

    Layers answer in the type they are asked in, and compute in that of the weights they had. `int8` rounds each row of weights and each
    row of inputs to 255 levels (Dettmers et al. 2022, arXiv 2208.07339); `nf4` rounds each 64 weights to 16 levels, closest where
    normal numbers are densest (QLoRA: Dettmers et al. 2023, arXiv 2305.14314). Gradients flow through to what learns before and on top.
    The rest of the module goes to the device as it is.

    Raises:
        UserError: the kind is unknown, something in the module learns, the device cannot, bitsandbytes is not installed, or no layer
            is large enough.
    """
    device = torch.device(device)
    if kind not in FLAGS:
        raise UserError(f"unknown kind of quantised weights {kind!r}{suggest(kind, FLAGS)}")
    if any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError("quantised weights cannot learn; give --set base_weights=none, or choose a low-rank --method.")
    if device.type not in DEVICES:
        raise UserError(
            f"quantised weights do not train on {device.type}; give --set base_weights=none, or device=cpu."
        )
    layers = list(repeated_layers(module))
    if not layers:
        raise UserError("this base has no layers large enough to quantise; give --set base_weights=none.")
    before = size_of([module])
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, quantized(layer, kind).to(device))
    setattr(module.to(device), FLAGS[kind], True)
    return before - size_of([module])


def quantized(layer: nn.Linear, kind: QuantizationName) -> nn.Module:
    """A layer of bitsandbytes' with the same weights on the CPU, which it quantises when it is sent to a device."""
    modules: Any = extra("bitsandbytes").nn
    weight, bias = layer.weight.detach().cpu(), dict(layer.named_parameters()).get("bias")
    shape = {
        "input_features": layer.in_features,
        "output_features": layer.out_features,
        "bias": bias is not None,
        "device": "meta",
    }
    if kind == "int8":
        made = modules.Linear8bitLt(**shape, has_fp16_weights=False)
        made.weight = modules.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        made = modules.Linear4bit(**shape, compute_dtype=weight.dtype, quant_type="nf4")
        made.weight = modules.Params4bit(weight, requires_grad=False, quant_type="nf4", module=made)
        # On processors with bfloat16 it would lay its weights out anew at the first drawing, for a multiplication without gradients.
        made.support_avx512bf16_for_cpu = False
    made.bias = bias
    return made.train(layer.training)
