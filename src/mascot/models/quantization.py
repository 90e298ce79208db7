"""Frozen weights in 8 or 4 bits, for a small adapter on a large base, and weights' size in memory.

The base then takes a half or a quarter of the memory.

Shape suffixes: B batch, N tokens, D width of the inputs, E of the outputs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, UntypedStorage, nn

from mascot.errors import UserError, import_optional, suggest

QuantizationName = Literal["int8", "nf4"]

PEFT_FLAGS: dict[QuantizationName, str] = {"int8": "is_loaded_in_8bit", "nf4": "is_loaded_in_4bit"}
"""Kind -> the attribute that peft looks for on a module before it wraps such layers."""
DEVICES = ("cpu", "cuda", "xpu")
"""Devices on which bitsandbytes can train through quantized layers."""
MIN_WEIGHTS = 1024
"""Layers of fewer weights are not quantized: it would save nothing."""


def repeated_layers(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers worth quantizing, by name: large ones in repeated blocks.

    The few layers before and after the blocks stay: embeddings of timestep, text and image, and the
    last projection. They are small, and an error of theirs reaches everything.
    """
    lists = tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, nn.ModuleList))
    for name, layer in module.named_modules():
        if type(layer) is nn.Linear and layer.weight.numel() >= MIN_WEIGHTS and name.startswith(lists):
            yield name, layer


def quantize(module: nn.Module, kind: QuantizationName, device: torch.device | str) -> int:
    """Quantize the linear layers of a frozen module's blocks, and return the bytes saved.

    `int8` rounds each row of weights and each row of inputs to 255 levels (LLM.int8(), Dettmers et
    al. 2022, arXiv 2208.07339). `nf4` rounds each 64 weights to 16 levels, closest where normal
    numbers are densest (QLoRA, Dettmers et al. 2023, arXiv 2305.14314). Outputs have the type of
    the inputs, and the layers compute in the type of the weights they had. Gradients pass through
    to whatever is trained before and on top. The rest of the module moves to the device unchanged.

    Raises:
        UserError: the kind is unknown, something in the module is trained, the device cannot,
            bitsandbytes is not installed, or no layer is large enough.
    """
    device = torch.device(device)
    if kind not in PEFT_FLAGS:
        raise UserError(f"unknown kind of quantized weights {kind!r}{suggest(kind, PEFT_FLAGS)}")
    if any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError(
            "quantized weights cannot be trained; give --set base_weights=none, or choose a low-rank --method."
        )
    if device.type not in DEVICES:
        raise UserError(
            f"quantized weights do not train on {device.type}; give --set base_weights=none, or device=cpu."
        )
    layers = list(repeated_layers(module))
    if not layers:
        raise UserError("this base has no layers large enough to quantize; give --set base_weights=none.")
    before = size_of([module])
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, quantized_layer(layer, kind).to(device))
    setattr(module.to(device), PEFT_FLAGS[kind], True)
    return before - size_of([module])


def quantized_layer(layer: nn.Linear, kind: QuantizationName) -> nn.Module:
    """Make a bitsandbytes layer with the same weights; moving it to a device quantizes it."""
    modules: Any = import_optional("bitsandbytes").nn
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
        # On processors with bfloat16 the first inference would repack the weights, for a matrix
        # product without gradients.
        made.support_avx512bf16_for_cpu = False
    made.bias = bias
    return made.train(layer.training)


def size_of(modules: Iterable[nn.Module], more: Iterable[Tensor] = ()) -> int:
    """Count the bytes of modules' parameters and buffers, and of more tensors.

    The scales of quantized weights count too. Storage that several tensors share counts once.
    """
    storages = {id(storage): storage for module in modules for storage in storages_of(module)}
    storages |= {id(storage): storage for storage in (tensor.untyped_storage() for tensor in more)}
    return sum(storage.nbytes() for storage in storages.values())


def storages_of(module: nn.Module) -> Iterator[UntypedStorage]:
    """Yield the storage of every parameter and buffer of a module."""
    for tensor in (*module.state_dict(keep_vars=True).values(), *module.buffers()):
        yield tensor.untyped_storage()


class RoundedProduct(torch.autograd.Function):
    """The memory of a product with int8 weights: which tensors it makes, and which it keeps."""

    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, width: int) -> Tensor:
        """Round the inputs to 8 bits, and keep them unrounded for the backward pass."""
        ctx.save_for_backward(x_BND)
        rounded_BND = x_BND.to(torch.int8)
        return rounded_BND.new_empty((*x_BND.shape[:-1], width), dtype=x_BND.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Multiply by the weights in the inputs' type, a copy that lives as long."""
        (x_BND,) = ctx.saved_tensors
        weight_ED = x_BND.new_empty((gradients[0].shape[-1], x_BND.shape[-1]))
        return gradients[0].to(x_BND.dtype) @ weight_ED, None


def rounded_product(x_BND: Tensor, width: int) -> Tensor:
    """Return an empty tensor of the product's shape and the inputs' type, with its gradient."""
    return RoundedProduct.apply(x_BND, width)  # pyright: ignore[reportReturnType] # torch types no function's result


@contextmanager
def without_int8_kernels(module: nn.Module) -> Generator[None]:
    """Let int8 layers run under fake tensors within the context; their outputs have no values.

    The library's own kernels add a real bias to fake outputs there. The stand-in makes and keeps
    tensors of the same sizes.
    """
    kind: Any = import_optional("bitsandbytes").nn.Linear8bitLt if hasattr(module, PEFT_FLAGS["int8"]) else ()
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, kind)]
    for layer in layers:
        layer.forward = partial(rounded_product, width=layer.out_features)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
