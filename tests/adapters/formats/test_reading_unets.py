"""Files of other tools for UNets, under every spelling, mean what those tools mean by them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.layer_settings import read_own
from mascot.adapters.formats.registry import architecture_of, read_format, write_format
from mascot.adapters.lora_keys import METADATA_KEY, PartSettings, read_settings
from mascot.adapters.peft_layers import config_from
from mascot.errors import UserError
from mascot.methods.lora import restore
from mascot.models.families.registry import load_family

QUERY = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = QUERY.replace("to_q", "to_out.0")
CONV = "unet.down_blocks.1.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
FLAT = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = QUERY.removeprefix("unet.")
A, B = torch.rand(2, 6), torch.rand(4, 2)
KOHYA = ("lora_down.weight", "lora_up.weight")
PEFT = ("lora_A.weight", "lora_B.weight")

SPELLINGS: Mapping[str, tuple[str, str, tuple[str, str]]] = {
    "kohya, SD 1": (QUERY, FLAT, KOHYA),
    "kohya with peft's halves": (QUERY, FLAT, PEFT),
    "kohya, XL": (QUERY, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", KOHYA),
    "LyCORIS": (QUERY, FLAT.replace("lora_unet", "lycoris"), KOHYA),
    "ComfyUI": (QUERY, "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q", KOHYA),
    "OneTrainer for ComfyUI": (QUERY, "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q", PEFT),
    "diffusers": (QUERY, QUERY, PEFT),
    "diffusers, older": (QUERY, QUERY, ("lora.down.weight", "lora.up.weight")),
    "diffusers, oldest": (
        QUERY,
        QUERY.replace("attn1.", "attn1.processor."),
        ("_lora.down.weight", "_lora.up.weight"),
    ),
    "diffusers, oldest, out": (
        OUT,
        f"{QUERY.replace('attn1.to_q', 'attn1.processor.to_out')}",
        ("_lora.down.weight", "_lora.up.weight"),
    ),
    "diffusers, without the part": (QUERY, DOTTED, PEFT),
    "diffusers, oldest, without the part": (
        QUERY,
        DOTTED.replace("attn1.", "attn1.processor."),
        ("_lora.down.weight", "_lora.up.weight"),
    ),
    "peft": (QUERY, f"unet.base_model.model.{DOTTED}", PEFT),
    "peft, without the part": (QUERY, f"base_model.model.{DOTTED}", PEFT),
    "a convolution, kohya, XL": (CONV, "lora_unet_input_blocks_4_0_in_layers_2", KOHYA),
    "text, kohya": (TEXT, "lora_te_text_model_encoder_layers_0_self_attn_q_proj", KOHYA),
    "text, kohya, XL": (TEXT, "lora_te1_text_model_encoder_layers_0_self_attn_q_proj", KOHYA),
    "text, without text_model": (TEXT, "lora_te_encoder_layers_0_self_attn_q_proj", KOHYA),
    "text, ComfyUI": (TEXT, "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj", KOHYA),
    "text, transformers 5": (TEXT, TEXT.replace("text_model.", ""), PEFT),
    "text, older": (TEXT, TEXT, ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")),
    "text, oldest": (TEXT, TEXT.replace("q_proj", "to_q"), ("_lora.down.weight", "_lora.up.weight")),
    "text, without the part": (TEXT, TEXT.removeprefix("text_encoder."), PEFT),
    "second text encoder, ComfyUI": (
        TEXT.replace("text_encoder", "text_encoder_2"),
        "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj",
        KOHYA,
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_layer_is_found_under_every_spelling(tmp_path: Path, spelling: str) -> None:
    ours, theirs, halves = SPELLINGS[spelling]
    dot = "" if halves[0].startswith("_") else "."
    tensors = {f"{theirs}{dot}{halves[0]}": A, f"{theirs}{dot}{halves[1]}": B}
    save_file(tensors, tmp_path / "a.safetensors")
    read = Adapter.read(tmp_path / "a.safetensors")
    assert set(read.tensors) == {f"{ours}.lora_A.weight", f"{ours}.lora_B.weight"}
    assert torch.equal(read.tensors[f"{ours}.lora_A.weight"], A)
    layers, _ = read_own(read.tensors, read.metadata)
    (layer,) = layers.values()
    assert (layer.rank, layer.alpha) == (2, 2.0), "without an alpha nothing is scaled"


def scale_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> float:
    """Read one layer, and return what its change is multiplied by."""
    read = read_format(tensors, metadata or {})
    (layer,) = read_own(read.tensors, read.metadata)[0].values()
    return layer.alpha / layer.rank


@pytest.mark.parametrize(
    ("tensors", "scale"),
    [
        ({".alpha": 3.0}, 1.5),
        ({".alpha": 0.0}, 1.0),
        ({}, 1.0),
    ],
    ids=["as written", "0 stands for the rank", "none"],
)
def test_alpha_of_kohyas_files(tensors: Mapping[str, float], scale: float) -> None:
    pair = {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B}
    assert scale_of(pair | {f"{FLAT}{end}": torch.tensor(value) for end, value in tensors.items()}) == scale


def test_alpha_of_a_lokr_counts_for_factored_matrices_alone() -> None:
    whole = {f"{FLAT}.lokr_w1": torch.rand(2, 2), f"{FLAT}.lokr_w2": torch.rand(2, 3)}
    alpha = {f"{FLAT}.alpha": torch.tensor(4.0)}
    assert scale_of(whole | alpha) == 1.0
    factored = {
        f"{FLAT}.lokr_w1": torch.rand(2, 2),
        f"{FLAT}.lokr_w2_a": torch.rand(2, 8),
        f"{FLAT}.lokr_w2_b": torch.rand(8, 3),
    }
    assert scale_of(factored | alpha) == 0.5


def test_a_scale_of_a_whole_lokr_is_multiplied_into_a_factor() -> None:
    first, second = torch.rand(2, 2), torch.rand(2, 3)
    own = {f"{QUERY}.lokr_w1": first, f"{QUERY}.lokr_w2": second}
    metadata = {METADATA_KEY: json.dumps({"unet.r": 8, "unet.alpha": 4.0})}
    written, _ = write_format("kohya", own, metadata, "sd1")
    assert torch.equal(written[f"{FLAT}.lokr_w1"], first / 2)
    assert torch.equal(written[f"{FLAT}.lokr_w2"], second)


def test_rslora_becomes_a_plain_alpha() -> None:
    own = {f"{QUERY}.lora_A.weight": A, f"{QUERY}.lora_B.weight": B}
    metadata = {METADATA_KEY: json.dumps({"unet.r": 2, "unet.lora_alpha": 3.0, "unet.use_rslora": True})}
    written, header = write_format("kohya", own, metadata, "sd1")
    assert header == {}
    assert float(written[f"{FLAT}.alpha"]) / 2 == pytest.approx(3 / math.sqrt(2), rel=1e-7)
    back = read_format(*write_format("diffusers", own, metadata, "sd1"))
    assert json.loads(back.metadata[METADATA_KEY])["unet.use_rslora"] is False
    assert scale_of(back.tensors, back.metadata) == pytest.approx(3 / math.sqrt(2), rel=1e-12)


def test_the_middle_factor_of_a_locon_is_folded() -> None:
    down, mid, up = torch.rand(2, 5, 1, 1), torch.rand(2, 2, 3, 3), torch.rand(4, 2, 1, 1)
    flat = "lora_unet_down_blocks_1_resnets_0_conv1"
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}
    read = read_format({f"{flat}.{end}": tensor for end, tensor in parts.items()}, {})
    folded = torch.einsum("or,rihw->oihw", up.flatten(1), read.tensors[f"{CONV}.lora_A.weight"])
    expected = nn.functional.conv2d(nn.functional.conv2d(torch.eye(5).reshape(5, 5, 1, 1), down), mid, padding=2)
    expected = nn.functional.conv2d(expected, up).flip(2, 3).transpose(0, 1)
    assert torch.allclose(folded, expected, atol=1e-6)
    assert set(read.tensors) == {f"{CONV}.lora_A.weight", f"{CONV}.lora_B.weight"}


@pytest.mark.parametrize(("shape", "read"), [((4, 1), True), ((4,), True), ((1, 6), False), ((6,), False)])
def test_magnitudes_are_one_for_each_output(shape: tuple[int, ...], *, read: bool) -> None:
    tensors = {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B, f"{FLAT}.dora_scale": torch.rand(shape)}
    if read:
        magnitudes = read_format(tensors, {}).tensors[f"{QUERY}.lora_magnitude_vector"]
        assert torch.equal(magnitudes, tensors[f"{FLAT}.dora_scale"].reshape(-1))
    else:
        with pytest.raises(UserError, match="one for each input of the layer"):
            read_format(tensors, {})


@pytest.mark.parametrize("square", [(4, 1), (1, 4)])
def test_the_side_of_magnitudes_is_told_by_their_shape_where_a_layer_is_square(square: tuple[int, int]) -> None:
    tensors = {
        f"{FLAT}.lora_down.weight": torch.rand(2, 4),
        f"{FLAT}.lora_up.weight": B,
        f"{FLAT}.dora_scale": torch.rand(square),
    }
    if square[0] == 4:
        assert f"{QUERY}.lora_magnitude_vector" in read_format(tensors, {}).tensors
    else:
        with pytest.raises(UserError, match="one for each input"):
            read_format(tensors, {})


@pytest.mark.parametrize(("width", "found"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (64, None)])
def test_the_base_is_told_by_the_width_of_its_texts(width: int, found: str | None) -> None:
    key = QUERY.replace("attn1.to_q", "attn2.to_k")
    tensors = {f"{key}.lora_A.weight": torch.rand(2, width), f"{key}.lora_B.weight": B}
    assert architecture_of(tensors) == found


def test_two_clips_alone_are_of_xl_or_of_stable_diffusion_3() -> None:
    layer = "text_model_encoder_layers_0_self_attn_q_proj"
    tensors: dict[str, Tensor] = {}
    for encoder, width in (("te1", 768), ("te2", 1280)):
        tensors[f"lora_{encoder}_{layer}.lora_down.weight"] = torch.rand(2, width)
        tensors[f"lora_{encoder}_{layer}.lora_up.weight"] = torch.rand(width, 2)
    assert read_format(tensors, {}).architecture is None


def test_a_lokr_with_two_ranks_is_scaled_by_the_second_as_in_other_tools() -> None:
    shapes = {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (4, 3)}
    tensors = {f"{FLAT}.{end}": torch.rand(shape) for end, shape in shapes.items()}
    read = read_format({**tensors, f"{FLAT}.alpha": torch.tensor(8.0)}, {})
    settings = read_settings(read.metadata)["unet"]
    assert (settings.r, settings.alpha) == (4, 8)


def product_change(tensors: Mapping[str, Tensor]) -> Tensor:
    """Multiply out a LoHa or a LoKr by the formulas of their papers."""
    if "hada_w1_a" in tensors:
        return (tensors["hada_w1_a"] @ tensors["hada_w1_b"]) * (tensors["hada_w2_a"] @ tensors["hada_w2_b"])
    first = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    second = tensors["lokr_w2"] if "lokr_w2" in tensors else tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
    return torch.kron(first, second)


def random_product(kind: str, rank: int) -> dict[str, Tensor]:
    """Draw the factors of a change of 16 x 16, of unusual shapes for a LoKr."""
    if kind == "loha":
        sizes = {"a": (16, rank), "b": (rank, 16)}
        return {f"hada_w{n}_{side}": torch.rand(size) for n in (1, 2) for side, size in sizes.items()}
    if kind == "whole":
        return {"lokr_w1": torch.rand(2, 8), "lokr_w2": torch.rand(8, 2)}
    halves = {"lokr_w2_a": torch.rand(2, rank), "lokr_w2_b": torch.rand(rank, 8)}
    if kind == "half":
        return {"lokr_w1": torch.rand(8, 2)} | halves
    return {"lokr_w1_a": torch.rand(8, rank), "lokr_w1_b": torch.rand(rank, 2)} | halves


@pytest.mark.parametrize("kind", ["loha", "whole", "half", "factored"])
def test_products_of_lycoris_change_the_weights_as_their_formula_says(
    tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    """Ranks differ by layer, and factors are others than peft would choose."""
    stage = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    blocks = "down_blocks.0.attentions.0.transformer_blocks.0"
    names = {f"{blocks}.attn1.to_q": 1, f"{blocks}.attn1.to_out.0": 3, f"{blocks}.attn2.to_q": 3}
    tensors: dict[str, Tensor] = {}
    for name, rank in names.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.{end}": tensor for end, tensor in random_product(kind, rank).items()}
        tensors[f"{flat}.alpha"] = torch.tensor(rank + 1.0)
    save_file(tensors, tmp_path / "a.safetensors")
    adapter = Adapter.read(tmp_path / "a.safetensors")
    applied = restore(stage, adapter.tensors, adapter.metadata)
    x = torch.rand(3, 16)
    for name, rank in names.items():
        layer: Any = stage.parts["unet"].get_submodule(name)
        flat = f"lora_unet_{name.replace('.', '_')}."
        own = {key.removeprefix(flat): tensor for key, tensor in tensors.items() if key.startswith(flat)}
        scale = 1.0 if kind == "whole" else (rank + 1) / rank
        expected = layer.base_layer(x) + scale * x @ product_change(own).T
        assert torch.allclose(layer(x), expected, atol=1e-5)
    applied.remove()


@pytest.mark.parametrize("flat_file", [True, False])
def test_a_1_x_1_convolution_may_be_written_as_a_matrix_and_the_reverse(tiny_base: Path, *, flat_file: bool) -> None:
    stage = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    name = "down_blocks.0.attentions.0.proj_in" if flat_file else DOTTED.replace("down_blocks.1", "down_blocks.0")
    layer: Any = stage.parts["unet"].get_submodule(name)
    down, up = torch.rand(2, 16), torch.rand(16, 2)
    ones = () if flat_file else (1, 1)
    pair = {f"{name}.lora_A.weight": down.reshape(2, 16, *ones), f"{name}.lora_B.weight": up.reshape(16, 2, *ones)}
    read = read_format({f"unet.{key}": tensor for key, tensor in pair.items()}, {})
    applied = restore(stage, read.tensors, read.metadata)
    x = torch.rand(1, 16, 3, 3) if flat_file else torch.rand(3, 16)
    change = torch.einsum("oi,bihw->bohw", up @ down, x) if flat_file else x @ (up @ down).T
    assert torch.allclose(stage.parts["unet"].get_submodule(name)(x), layer(x) + change, atol=1e-5)
    applied.remove()


def test_ranks_of_every_layer_of_its_own_are_applied_in_seconds() -> None:
    names = [f"blocks.{number}.attn{half}.to_{letter}" for number in range(100) for half in (1, 2) for letter in "qkv"]
    module = nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.ModuleDict({"attn1": qkv(), "attn2": qkv()}) for _ in range(100)])}
    )
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        rank = 1 + number % 60
        tensors |= {f"{name}.lora_A.weight": torch.rand(rank, 4), f"{name}.lora_B.weight": torch.rand(4, rank)}
    settings = PartSettings(
        r=1,
        lora_alpha=1.0,
        rank_pattern={name: 1 + number % 60 for number, name in enumerate(names)},
        alpha_pattern={name: 0.5 + number % 60 for number, name in enumerate(names)},
    )
    began = time.perf_counter()
    inject_adapter_in_model(config_from(tensors, settings), module)
    assert time.perf_counter() - began < 10
    layer: Any = module.get_submodule(names[130])
    assert layer.scaling["default"] == 10.5 / 11
    assert layer.r["default"] == 11


def qkv() -> nn.ModuleDict:
    """Make the projections of an attention layer."""
    return nn.ModuleDict({f"to_{letter}": nn.Linear(4, 4) for letter in "qkv"})
