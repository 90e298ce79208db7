"""Files that number their layers: every number finds its layer, on real files and a real UNet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mascot.adapters.formats.numbered_layers import read_numbered, unet_layers
from mascot.errors import UserError


def visited(model: nn.Module, kinds: Collection[str]) -> list[tuple[str, tuple[int, ...]]]:
    """List the layers below modules of some classes, in the order in which they are visited."""
    names = {module: name for name, module in model.named_modules()}
    found: dict[nn.Module, tuple[int, ...]] = {}
    for outer in model.modules():
        if type(outer).__name__ in kinds:
            found |= {m: tuple(m.weight.shape) for m in outer.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    return [(names[module], shape) for module, shape in found.items()]


@pytest.fixture(scope="module", params=[768, 1024], ids=["SD 1", "SD 2"])
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    """A UNet of Stable Diffusion without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=request.param, use_linear_projection=request.param == 1024)


@pytest.mark.parametrize("residual", [False, True], ids=["attention", "residual blocks too"])
def test_the_order_is_that_of_the_modules(unet: UNet2DConditionModel, *, residual: bool) -> None:
    kinds = {"Attention", "GEGLU"} | ({"ResnetBlock2D"} if residual else set())
    width = unet.config["cross_attention_dim"]
    assert list(unet_layers(("attn1", "attn2", "ff"), width, residual=residual)) == visited(unet, kinds)


def numbered(layers: Sequence[tuple[str, tuple[int, ...]]], rank: int = 2) -> dict[str, Tensor]:
    """Write layers as a numbered file."""
    tensors: dict[str, Tensor] = {}
    for number, (_, (out, *inner)) in enumerate(layers):
        tensors[f"unet:{number}:up"] = torch.zeros(out, rank, *(1 for _ in inner[1:]))
        tensors[f"unet:{number}:down"] = torch.zeros(rank, *inner)
    return tensors


@pytest.mark.parametrize("block", [("attn1", "ff", "attn2"), ("attn1", "attn2", "ff"), ("attn1", "attn2")])
@pytest.mark.parametrize("residual", [False, True])
def test_every_order_is_told_by_its_shapes(block: tuple[str, ...], *, residual: bool) -> None:
    layers = list(unet_layers(block, 768, residual=residual))
    named = read_numbered(numbered(layers))
    assert list(named)[::2] == [f"unet.{name}.lora_A.weight" for name, _ in layers]
    assert list(named)[1::2] == [f"unet.{name}.lora_B.weight" for name, _ in layers]


@pytest.mark.parametrize("fault", ["half", "gap", "shapes", "part"])
def test_other_numbers_are_refused(fault: str) -> None:
    tensors = numbered(list(unet_layers(("attn1", "attn2"), 768, residual=False)))
    if fault == "half":
        del tensors["unet:5:down"]
    elif fault == "gap":
        del tensors["unet:5:down"], tensors["unet:5:up"]
    elif fault == "shapes":
        tensors["unet:5:up"] = torch.zeros(7, 2)
    else:
        tensors = {key.replace("unet", "vae"): value for key, value in tensors.items()}
    with pytest.raises(UserError, match="half a layer" if fault == "half" else "are not those of Stable Diffusion"):
        read_numbered(tensors)
