"""Files of other tools are recognized by their tensors, and refused for what they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save_file

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.lora_keys import name_in_file
from mascot.errors import UserError

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
MASKED = ATTENTION.replace(".", "_")
MATRIX = torch.zeros(4, 4)
FOREIGN: dict[str, tuple[str, ...]] = {
    "OFT": (f"lora_unet_{MASKED}_to_q.oft_blocks",),
    "an adapter of LyCORIS": (f"lora_unet_{MASKED}_to_q.diff",),
    "custom diffusion": (f"unet.{ATTENTION}.processor.to_k_custom_diffusion.weight",),
    "no layer that mascot knows, diffusion_model.blocks": ("diffusion_model.blocks.0.attn.q.lora_A.weight",),
    "no layer that mascot knows, lora_unet_no_layer": ("lora_unet_no_layer.lora_down.weight",),
    "without the other half": (f"lora_unet_{MASKED}_to_q.lora_down.weight",),
    "is not one finite number": ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",),
    "control LoRA of Black Forest Labs": ("img_in.lora_A.weight", "single_blocks.0.norm.query_norm.scale"),
    "without the other half of its": ("double_blocks.0.processor.qkv_lora1.down.weight",),
    "whole checkpoint": ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"),
    "the denoiser": ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    "the text encoder of a base": ("text_model.encoder.layers.0.mlp.fc1.weight",),
    "autoencoder": ("encoder.conv_in.weight", "decoder.conv_in.weight"),
    "ControlNet": ("controlnet_cond_embedding.conv_in.weight", "conv_in.weight"),
    "IP-Adapter": ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"),
    "numbered layers of vae are not those": ("vae:0:up", "vae:0:down"),
    "half a layer at unet:0": ("unet:0:up",),
    "rows for a T5": ("clip_l", "t5"),
    "no layer that mascot knows, layers.0.weight": ("layers.0.weight",),
}


@pytest.mark.parametrize(("says", "names"), FOREIGN.items(), ids=FOREIGN)
def test_a_file_of_another_tool_is_refused_for_what_it_is(tmp_path: Path, says: str, names: tuple[str, ...]) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: MATRIX.clone() for name in names}, path)
    with pytest.raises(UserError, match=says) as refused:
        Adapter.read(path)
    assert "the base it was trained on" not in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("part", ["unet", "transformer", "text_encoder", "text_encoder_2", "stage2.unet"])
def test_a_lora_in_the_format_of_diffusers_is_read(tmp_path: Path, part: str) -> None:
    names = (f"{part}.a.to_q.lora_A.weight", f"{part}.a.to_q.lora_B.weight")
    save_file({name: MATRIX.clone() for name in names}, tmp_path / "a.safetensors")
    layer = name_in_file(part, "a.to_q")
    read = Adapter.read(tmp_path / "a.safetensors")
    assert set(read.tensors) == {f"{part}.{layer}.lora_A.weight", f"{part}.{layer}.lora_B.weight"}
    assert read.format == "diffusers"


def test_pickled_files_are_named_without_being_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": Bomb()}, "name": "x"}
    torch.save({"string_to_param": {"*": MATRIX}, "string_to_token": {"*": 1}}, tmp_path / "embedding.safetensors")
    (tmp_path / "old.safetensors").write_bytes(pickle.dumps(embedding))
    torch.save({"weights": MATRIX}, tmp_path / "weights.safetensors")
    for name, says in {
        "embedding": "pickled textual inversion embedding",
        "old": "pickled textual inversion embedding",
        "weights": "a file of pickled weights",
    }.items():
        with pytest.raises(UserError, match=says):
            Adapter.read(tmp_path / f"{name}.safetensors")
    with ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(UserError, match="not a whole"):
        Adapter.read(tmp_path / "other.zip")
    assert not (tmp_path / "ran").exists()
