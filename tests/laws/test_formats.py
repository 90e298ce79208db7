"""Every layer of the bases people use keeps its name and its tensors through every format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,  # pyright: ignore[reportPrivateUsage]
    _maybe_map_sgm_blocks_to_diffusers,  # pyright: ignore[reportPrivateUsage]
)
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import Tensor

from laws.real_architectures import ARCHITECTURES, adaptable_shapes
from mascot.adapters.formats.layer_settings import read_own
from mascot.adapters.formats.registry import FORMATS, architecture_of, read_format, write_format
from mascot.adapters.lora_keys import METADATA_KEY

Shape = tuple[int, ...]


def lora(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoRA of a layer, linear or convolution."""
    return {
        "lora_A.weight": torch.rand(rank, *shape[1:]),
        "lora_B.weight": torch.rand(shape[0], rank, *[1] * (len(shape) - 2)),
    }


def dora(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a DoRA with magnitudes as peft shapes them."""
    linear = len(shape) == 2
    return lora(shape, rank) | {"lora_magnitude_vector": torch.rand(shape[0] if linear else (1, shape[0], 1, 1))}


def loha(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoHa; a convolution has Tucker cores."""
    if len(shape) == 2:
        sizes = {"a": (shape[0], rank), "b": (rank, shape[1])}
        return {f"hada_w{n}_{side}": torch.rand(size) for n in (1, 2) for side, size in sizes.items()}
    sizes = {"a": (rank, shape[0]), "b": (rank, shape[1])}
    cores = {f"hada_t{n}": torch.rand(rank, rank, *shape[2:]) for n in (1, 2)}
    return cores | {f"hada_w{n}_{side}": torch.rand(size) for n in (1, 2) for side, size in sizes.items()}


def lokr(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoKr whose second factor is whole in every second layer."""
    first, second = torch.rand(shape[0] // 4, shape[1] // 4 or 1), (4, min(shape[1], 4))
    if rank % 2:
        return {"lokr_w1": first, "lokr_w2": torch.rand(*second, *shape[2:])}
    wide = second[1] * (shape[2] * shape[3] if len(shape) > 2 else 1)
    return {"lokr_w1": first, "lokr_w2_a": torch.rand(second[0], rank), "lokr_w2_b": torch.rand(rank, wide)}


KINDS: Mapping[str, Callable[[Shape, int], dict[str, Tensor]]] = {
    "lora": lora,
    "dora": dora,
    "loha": loha,
    "lokr": lokr,
}


def adapter_of(architecture: str, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Make an adapter of every layer, of ranks 1 to 3, with alphas apart from the ranks."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, dict[str, Any]] = {}
    name = "alpha" if kind in {"loha", "lokr"} else "lora_alpha"
    for number, ((part, layer), shape) in enumerate(adaptable_shapes(architecture).items()):
        rank = 1 + number % 3
        unscaled = kind == "lokr" and rank % 2
        tensors |= {f"{part}.{layer}.{end}": tensor for end, tensor in KINDS[kind](shape, rank).items()}
        own = settings.setdefault(part, {"r": 2, name: 2.0, "rank_pattern": {}, "alpha_pattern": {}})
        pattern = layer if "." in layer else f"^{layer}"
        own["rank_pattern"][pattern] = rank
        own["alpha_pattern"][pattern] = rank if unscaled else rank * (1 + number % 5) / 2
    flat = {f"{part}.{key}": value for part, own in settings.items() for key, value in own.items()}
    return tensors, {METADATA_KEY: json.dumps(flat), "note": "kept"}


PAIRS = [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]
QUICK = {("sd1", "lora"), ("sd1", "dora")}


@pytest.mark.parametrize(
    ("architecture", "kind"), [pytest.param(*p, marks=() if p in QUICK else pytest.mark.slow) for p in PAIRS]
)
def test_every_layer_comes_back_bit_for_bit(architecture: str, kind: str) -> None:
    tensors, metadata = adapter_of(architecture, kind)
    before, _ = read_own(tensors, metadata)
    known = architecture_of(tensors)
    assert known == architecture
    for name in FORMATS:
        written, header = write_format(name, tensors, metadata, known)
        back = read_format(written, header)
        assert back.format == name
        assert back.metadata["note"] == "kept"
        assert back.tensors.keys() == tensors.keys(), name
        assert all(torch.equal(back.tensors[key], tensor) for key, tensor in tensors.items()), name
        after, others = read_own(back.tensors, back.metadata)
        assert not others
        scales = {key: (layer.rank, layer.alpha) for key, layer in before.items()}
        assert {key: (layer.rank, layer.alpha) for key, layer in after.items()} == scales, name


KOHYA_NAMES = {
    "sd1": {
        "unet.conv_in": "lora_unet_conv_in",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
        ),
        "unet.down_blocks.2.downsamplers.0.conv": "lora_unet_down_blocks_2_downsamplers_0_conv",
        "unet.mid_block.resnets.1.time_emb_proj": "lora_unet_mid_block_resnets_1_time_emb_proj",
        "text_encoder.text_model.encoder.layers.11.mlp.fc1": "lora_te_text_model_encoder_layers_11_mlp_fc1",
    },
    "sd2": {
        "unet.up_blocks.3.attentions.2.proj_in": "lora_unet_up_blocks_3_attentions_2_proj_in",
        "text_encoder.text_model.encoder.layers.22.self_attn.out_proj": (
            "lora_te_text_model_encoder_layers_22_self_attn_out_proj"
        ),
    },
    "sdxl": {
        "unet.conv_in": "lora_unet_input_blocks_0_0",
        "unet.conv_out": "lora_unet_out_2",
        "unet.time_embedding.linear_1": "lora_unet_time_embed_0",
        "unet.add_embedding.linear_2": "lora_unet_label_emb_0_2",
        "unet.down_blocks.0.resnets.0.conv1": "lora_unet_input_blocks_1_0_in_layers_2",
        "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
        "unet.down_blocks.1.resnets.0.conv_shortcut": "lora_unet_input_blocks_4_0_skip_connection",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
        ),
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": (
            "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj"
        ),
        "unet.mid_block.resnets.1.conv2": "lora_unet_middle_block_2_out_layers_3",
        "unet.mid_block.attentions.0.proj_in": "lora_unet_middle_block_1_proj_in",
        "unet.up_blocks.0.attentions.2.transformer_blocks.3.attn2.to_out.0": (
            "lora_unet_output_blocks_2_1_transformer_blocks_3_attn2_to_out_0"
        ),
        "unet.up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_2_conv",
        "unet.up_blocks.2.resnets.2.time_emb_proj": "lora_unet_output_blocks_8_0_emb_layers_1",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
        ),
        "text_encoder_2.text_model.encoder.layers.31.mlp.fc2": "lora_te2_text_model_encoder_layers_31_mlp_fc2",
    },
}
"""Our name -> the name that kohya's scripts form of the modules of their own models.

They join the prefix, the module's name and the layer's, with underscores for dots; for XL the
modules are those of `SdxlUNet2DConditionModel`.
"""


@pytest.mark.parametrize("architecture", KOHYA_NAMES)
def test_names_are_those_of_kohyas_scripts(architecture: str) -> None:
    for ours, theirs in KOHYA_NAMES[architecture].items():
        tensors = {f"{ours}.lora_A.weight": torch.zeros(1, 2), f"{ours}.lora_B.weight": torch.zeros(2, 1)}
        written, _ = write_format("kohya", tensors, {}, architecture)
        assert set(written) == {f"{theirs}.lora_down.weight", f"{theirs}.lora_up.weight", f"{theirs}.alpha"}


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_diffusers_reads_every_layer_of_our_kohya_files(architecture: str) -> None:
    """Its own conversion, from another hand, leads to the names that we started from."""
    layers = [(part, layer) for part, layer in adaptable_shapes(architecture) if part == "unet"]
    tensors = {
        f"{part}.{layer}.{end}.weight": torch.zeros(1, 1) for part, layer in layers for end in ("lora_A", "lora_B")
    }
    written, _ = write_format("kohya", tensors, {}, architecture)
    if architecture == "sdxl":
        written = _maybe_map_sgm_blocks_to_diffusers(written, SimpleNamespace(layers_per_block=2))
    read, _ = _convert_non_diffusers_lora_to_diffusers(written)
    peft = convert_unet_state_dict_to_peft({key.removeprefix("unet."): tensor for key, tensor in read.items()})
    assert {f"unet.{key}".replace(".processor", "") for key in peft} == set(tensors)
