"""What a renamed or split layer means: against diffusers' conversion of whole checkpoints.

An adapter of the original layout is applied to original weights, which diffusers then converts. The
same adapter under diffusers' names is applied to what diffusers makes of the weights alone. Both
must agree: exchanged halves, or parts in the wrong order, cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from torch import Tensor

from adapters.formats.low_rank_layers import KINDS, applied, layer_of, random_layer
from laws.real_architectures import adaptable_shapes
from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.formats.layer_settings import Layers
from mascot.adapters.formats.transformer_layers import ORIGINAL_NAMES, join_original, separate_layers, with_number
from mascot.adapters.formats.unet_names import UNET

WIDTH = 12
CONVERSIONS: Mapping[str, Callable[..., Any]] = {
    "sd3": convert_sd3_transformer_checkpoint_to_diffusers,
    "flux": convert_flux_transformer_checkpoint_to_diffusers,
}


def original_shape(name: str, *, is_last: bool) -> tuple[int, ...]:
    """Shape of a layer of a narrow model; diffusers fixes the outputs of one layer of FLUX.1."""
    if name == "x_embedder.proj":
        return WIDTH, 4, 2, 2
    outputs = {"qkv": 3 * WIDTH, "linear1": 7 * 3072, "adaLN_modulation.1": 6 * WIDTH, "lin": 6 * WIDTH}
    rows = next((count for end, count in outputs.items() if name.endswith(end)), WIDTH)
    if name == "final_layer.adaLN_modulation.1" or (is_last and name.endswith("context_block.adaLN_modulation.1")):
        rows = 2 * WIDTH
    return rows, WIDTH


def original_weights(architecture: str) -> dict[str, Tensor]:
    """Make the weights of a model of two blocks, as its original code names them."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {"pos_embed": torch.zeros(1)} if architecture == "sd3" else {}
    for template in ORIGINAL_NAMES[architecture].layers:
        for number in "01" if "blocks.N" in template else "-":
            name = with_number(template, number)
            shape = original_shape(name, is_last=number == "1")
            weights[f"{name}.weight"] = torch.randn(shape, generator=generator)
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    if architecture == "flux":
        norms = [f"double_blocks.N.{side}_attn.norm" for side in ("img", "txt")] + ["single_blocks.N.norm"]
        weights |= {
            f"{with_number(norm, number)}.{part}_norm.scale": torch.ones(4)
            for norm in norms
            for part in ("query", "key")
            for number in "01"
        }
    last = "joint_blocks.1.context_block"  # the last block of SD3 does not change the text
    return {
        name: weight for name, weight in weights.items() if not name.startswith((f"{last}.attn.proj", f"{last}.mlp"))
    }


def adapters_of(weights: Mapping[str, Tensor], kind: str) -> dict[str, LayerChange]:
    """Make an adapter of every layer; the first factor of each LoKr divides into all parts."""
    generator = torch.Generator().manual_seed(1)
    matrices = {name.removesuffix(".weight"): weight for name, weight in weights.items() if name.endswith(".weight")}
    return {name: adapter_of(weight, kind, generator) for name, weight in matrices.items()}


def adapter_of(weight: Tensor, kind: str, generator: torch.Generator) -> LayerChange:
    """Make the adapter of one layer; that of a convolution is never a LoHa."""
    if kind != "lokr":
        chosen = "lora" if weight.ndim > 2 and kind == "loha" else kind
        return random_layer(chosen, tuple(weight.shape), 3, 2.0, generator)
    first = torch.randn(len(weight) // 2, 4, generator=generator)
    second = torch.randn(2, weight[0].numel() // 4, generator=generator)
    return layer_of({".lokr_w1": first, ".lokr_w2": second}, 3, 2.0)


def apply_all(weights: Mapping[str, Tensor], layers: Mapping[str, LayerChange]) -> dict[str, Tensor]:
    """Apply an adapter to weights; every layer of it must find its weight."""
    changed = dict(weights)
    for name, layer in layers.items():
        weight = weights[f"{name}.weight"]
        changed[f"{name}.weight"] = applied(weight.flatten(1), layer).reshape(weight.shape)
    return changed


def unprefixed(layers: Layers) -> dict[str, LayerChange]:
    """Leave the part of each layer out, which is the transformer."""
    return {name: layer for (_, name), layer in layers.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", list(ORIGINAL_NAMES))
def test_a_layer_means_the_same_under_both_names(architecture: str, kind: str) -> None:
    convert, weights = CONVERSIONS[architecture], original_weights(architecture)
    adapter = adapters_of(weights, kind)
    own = unprefixed(separate_layers({("transformer", name): layer for name, layer in adapter.items()}))
    expected = convert(apply_all(weights, adapter))
    given = apply_all(convert(dict(weights)), own)
    assert expected.keys() == given.keys()
    for name, weight in expected.items():
        assert torch.allclose(weight.double(), given[name].double(), atol=1e-6), name
    joined, refused = join_original({("transformer", name): layer for name, layer in own.items()}, architecture)
    back = unprefixed(joined)
    assert not refused
    assert {name: set(layer.tensors) for name, layer in back.items()} == {
        name: set(layer.tensors) for name, layer in adapter.items()
    }
    for name, layer in adapter.items():
        assert (back[name].rank, back[name].alpha) == (layer.rank, layer.alpha), name
        assert all(torch.equal(back[name].tensors[key], tensor) for key, tensor in layer.tensors.items()), name


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_a_layer_of_a_unet_has_the_original_name_that_diffusers_converts(architecture: str) -> None:
    """A checkpoint under our original names is converted to the names that we started from."""
    names = [name for part, name in adaptable_shapes(architecture) if part == "unet"]
    original = {name: UNET.to_original(name, architecture) for name in names}
    checkpoint = {
        f"model.diffusion_model.{original[name]}.{kind}": torch.tensor(float(number))
        for number, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    config = {"layers_per_block": 2, "addition_embed_type": "text_time" if architecture == "sdxl" else None}
    converted: Mapping[str, Tensor] = convert_ldm_unet_checkpoint(checkpoint, config)
    assert {name: float(converted[f"{name}.weight"]) for name in names} == {
        name: float(number) for number, name in enumerate(names)
    }
    assert {name: UNET.from_original(theirs or "") for name, theirs in original.items()} == {
        name: name for name in names
    }
