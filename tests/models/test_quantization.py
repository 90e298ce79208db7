"""Laws of quantized weights: nearly the same outputs, far less memory, gradients on top."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.models.quantization import MIN_WEIGHTS, PEFT_FLAGS, QuantizationName, quantize, repeated_layers, size_of
from mascot.training.memory_estimate import activation_bytes
from tiny.families import MAKERS
from tiny.memory import peak_of
from tiny.stable_diffusion import tiny_stable_diffusion

WIDTH = 64
ERROR: Mapping[str, float] = {"int8": 0.02, "nf4": 0.15}
"""The most that a random network's outputs may move, relative to their norm.

Measured: 0.013 and 0.12.
"""
SHARE: Mapping[str, float] = {"int8": 0.27, "nf4": 0.17}
"""The share of a float32 layer's bytes that is left, scales included."""
ENDS = (
    "time_embedding",
    "add_embedding",
    "encoder_hid_proj",
    "x_embedder",
    "context_embedder",
    "time_text_embed",
    "norm_out",
    "proj_out",
)


class Network(nn.Module):
    """Three residual blocks between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        layers = (
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Linear(2 * WIDTH, WIDTH, bias=False),
            nn.Linear(WIDTH, 8),
            nn.Linear(8, WIDTH),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(type(layer)(**arguments(layer)) for layer in layers)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def arguments(layer: nn.Module) -> dict[str, Any]:
    """The arguments that make another layer like this one."""
    if not isinstance(layer, nn.Linear):
        return {}
    return {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": "bias" in dict(layer.named_parameters()),
    }


def network(dtype: torch.dtype = torch.float32) -> Network:
    """A frozen network of random weights, always the same."""
    made = Network().to(dtype).eval().requires_grad_(requires_grad=False)
    for name, parameter in made.named_parameters():
        parameter.copy_(gaussian(tuple(parameter.shape), [seeded(name)])[0] / parameter.shape[-1] ** 0.5)
    return made


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    """Seven examples."""
    return gaussian((7, WIDTH), [seeded("input")])[0].to(dtype)


def distance(one: Tensor, other: Tensor) -> float:
    """The distance of two outputs, relative to the second one's norm."""
    return ((one - other).float().norm() / other.float().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_outputs_hardly_change_and_keep_their_dtype(kind: QuantizationName, dtype: torch.dtype) -> None:
    module, x = network(dtype), inputs(dtype)
    before = module(x)
    quantize(module, kind, "cpu")
    assert 0 < distance(module(x), before) < ERROR[kind]
    assert module(x).dtype == dtype
    other = network(dtype)
    quantize(other, kind, "cpu")
    assert torch.equal(other(x), module(x)), "the same weights, the same bits"


@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_the_saving_is_what_is_saved(kind: QuantizationName) -> None:
    """Large layers shrink to their share; projections at both ends and small layers stay."""
    module = network()
    before, large = size_of([module]), sum(layer.weight.nbytes for _, layer in repeated_layers(module))
    assert large == 3 * 2 * 2 * WIDTH * WIDTH * 4
    saved = quantize(module, kind, "cpu")
    assert size_of([module]) == before - saved
    assert large * (1 - SHARE[kind]) < saved < large
    assert {type(layer) for layer in (module.first, module.last)} == {nn.Linear}
    block: Any = module.blocks[0]
    assert [type(layer) is nn.Linear for layer in block if hasattr(layer, "weight")] == [False, False, True, True]


def adapted(kind: QuantizationName) -> Network:
    """A quantized network with a LoRA by peft."""
    module = network()
    quantize(module, kind, "cpu")
    inject_adapter_in_model(LoraConfig(r=4, target_modules=r"blocks\.\d\.[02]"), module)
    return module


@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_an_adapter_trains_on_top(kind: QuantizationName) -> None:
    """Inference before and between must not repack the weights. Nothing else moves."""
    module, x = adapted(kind), inputs()
    wrapped: Any = module.blocks[0]
    assert type(wrapped[0]).__name__ == {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[kind]
    assert type(wrapped[0]).__module__.startswith("peft.")
    right = gaussian((7, WIDTH), [seeded("right")])[0]
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer, errors = torch.optim.Adam(trained, lr=1e-2), list[float]()
    for _ in range(30):
        with torch.no_grad():
            inferred = module(x)
        output = module(x)
        assert torch.equal(output, inferred)
        error = (output - right).square().mean()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, kept[name])}
    assert moved == {name for name in kept if ".lora_" in name}


@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_gradients_flow_through(kind: QuantizationName) -> None:
    """They reach what is trained before the layers, nearly as if nothing were quantized."""
    flows: list[Tensor] = []
    for module in (network(), network()):
        if flows:
            quantize(module, kind, "cpu")
        x = inputs().requires_grad_()
        module(x).square().sum().backward()
        assert x.grad is not None
        flows.append(x.grad)
    assert 0 < distance(flows[1], flows[0]) < 2 * ERROR[kind]


@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_a_quantized_base_can_be_estimated(kind: QuantizationName) -> None:
    """The estimate leaves no trace: the real pass that follows gives the same."""
    module, x = adapted(kind), inputs()
    before = module(x)
    assert activation_bytes(module, lambda: module(torch.zeros(7, WIDTH))) > 3 * 7 * WIDTH * 4
    assert torch.equal(module(x), before)


@pytest.mark.parametrize("name", ["sd", *MAKERS])
def test_every_familys_blocks_are_quantized_and_its_ends_are_not(name: str, tmp_path: Any) -> None:
    if name == "sd":
        from diffusers import UNet2DConditionModel

        module: Any = UNet2DConditionModel.from_pretrained(
            tiny_stable_diffusion(tmp_path / "base") / "unet", local_files_only=True
        )
    else:
        pipeline = MAKERS[name]()
        module = getattr(pipeline, "unet", None) or pipeline.transformer
    names = [layer for layer, _ in repeated_layers(module)]
    assert names
    assert not [layer for layer in names if layer.startswith(ENDS)]
    before = {layer: part for layer, part in module.named_modules() if layer.startswith(ENDS)}
    assert quantize(module.eval().requires_grad_(requires_grad=False), "nf4", "cpu") > 0
    assert {layer: part for layer, part in module.named_modules() if layer.startswith(ENDS)} == before
    assert not list(repeated_layers(module)), "quantized layers are not linear layers to be quantized again"


def test_weights_that_are_trained_are_refused() -> None:
    module = network().requires_grad_(requires_grad=True)
    with pytest.raises(UserError, match=r"low-rank --method"):
        quantize(module, "nf4", "cpu")
    assert type(module.first) is nn.Linear


def test_an_impossible_quantization_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="device=cpu"):
        quantize(network(), "nf4", "mps")
    with pytest.raises(UserError, match="did you mean 'nf4'"):
        quantize(network(), "nf", "cpu")
    with pytest.raises(UserError, match="base_weights=none"):
        quantize(nn.Sequential(nn.Linear(MIN_WEIGHTS, MIN_WEIGHTS)).requires_grad_(requires_grad=False), "int8", "cpu")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'mascot\[optimizers\]'"):
        quantize(network(), "int8", "cpu")


@pytest.mark.parametrize("kind", PEFT_FLAGS)
def test_the_estimate_under_autocast_is_what_a_real_pass_takes(kind: QuantizationName) -> None:
    """The presets' bf16 on a CPU: biases keep their values and types, and the real pass runs."""
    module, x = adapted(kind), gaussian((7, 100, WIDTH), [seeded("input")])[0]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.autocast("cpu", torch.bfloat16):
        counted = activation_bytes(module, lambda: module(x))
        assert counted == pytest.approx(peak_of(lambda: module(x), trained), rel=0.25)
