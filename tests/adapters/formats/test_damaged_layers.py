"""Damaged layers of other tools' files for SD3 and FLUX.1 are refused in one sentence."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from mascot.adapters.formats.registry import read_format, write_format
from mascot.errors import UserError

LAYERS = (
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_unet_single_blocks_0_linear1",
    "lora_unet_final_layer_adaLN_modulation_1",
    "diffusion_model.joint_blocks.1.context_block.adaLN_modulation.1",
    "lycoris_transformer_blocks_0_attn_to_q",
)
KINDS = (
    ("lora_down.weight", "lora_up.weight", "alpha"),
    ("lora_down.weight", "lora_up.weight", "dora_scale"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1", "lokr_w2"),
    ("lokr_w1", "lokr_w2_a", "lokr_w2_b"),
    ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
)
MORE = ("lokr_w1", "lokr_w2_b", "lokr_t2", "hada_t1", "hada_w2_a", "lora_mid.weight", "dora_scale", "alpha")
HEIGHTS = {"lora_up.weight": 42, "hada_w1_a": 42, "hada_w2_a": 42, "dora_scale": 42, "lokr_w1_a": 7, "lokr_w2_a": 6}
WIDTHS = {"lora_down.weight": 6, "hada_w1_b": 6, "hada_w2_b": 6, "lokr_w1_b": 3, "lokr_w2_b": 2, "dora_scale": 1}


def damaged_file(chance: random.Random) -> dict[str, Tensor]:
    """Make a file of a few layers, some with a tensor too few, too many, or of any shape."""
    file: dict[str, Tensor] = {}
    for layer in chance.sample(LAYERS, chance.randint(1, 4)):
        names = list(chance.choice(KINDS))
        if chance.random() < 0.3:
            names.append(chance.choice(MORE))
        if chance.random() < 0.2:
            names.pop(chance.randrange(len(names)))
        rank = chance.randint(1, 4)
        for name in names:
            shape: tuple[int, ...] = (HEIGHTS.get(name, rank), WIDTHS.get(name, rank))
            if name == "alpha":
                shape = chance.choice([(), (1,), (2,)])
            elif chance.random() < 0.2:
                shape = tuple(chance.choice([0, 1, 2, 7, 42]) for _ in range(chance.choice([0, 1, 2, 2, 4])))
            file[f"{layer}.{name}"] = torch.ones(shape)
    return file


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(seed: int) -> None:
    chance = random.Random(seed)
    sentences: list[str] = []
    for _ in range(100):
        try:
            read = read_format(damaged_file(chance), {})
            for architecture in ("sd3", "flux"):
                write_format("comfyui", read.tensors, read.metadata, architecture)
        except UserError as error:
            sentences.append(str(error))
    assert 0 < len(sentences) < 100
    assert not any("\n" in sentence for sentence in sentences)
