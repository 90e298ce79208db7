"""Tiny bases as single files in the original layout of Stable Diffusion, with random weights."""

# diffusers and transformers annotate some arguments by their defaults: a tuple of one, never None.
# pyright: reportArgumentType=false

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mascot.models.base_files.clip_vocabulary import END, clip_tokenizer

Kind = Literal["one", "two", "xl"]
WORDS: Final = 700
"""Rows of the tiny embedding tables: every letter, and the first byte pairs."""
WIDTHS: Final = {"one": (48, 48), "two": (64, 64), "xl": (64, 128)}
"""Kind -> widths of the first text encoder, and of the second or only OpenCLIP encoder."""
SCHEDULE: Final[Mapping[str, Any]] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def tiny_pipeline(kind: Kind, *, channels: int = 4, seed: int = 0) -> Any:
    """Make a tiny pipeline whose settings follow from its shapes, as those of real files do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {"vae": autoencoder(kind), "unet": denoiser(kind, channels)}
        if kind == "xl":
            parts |= {"text_encoder": CLIPTextModel(text_config(WIDTHS[kind][0], "quick_gelu"))}
            parts |= {"text_encoder_2": CLIPTextModelWithProjection(text_config(WIDTHS[kind][1], "gelu"))}
            parts |= {"tokenizer": clip_tokenizer(WORDS), "tokenizer_2": clip_tokenizer(WORDS, padding="!")}
            scheduler = EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading")
            return StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
        act, padding = ("quick_gelu", END) if kind == "one" else ("gelu", "!")
        parts |= {"text_encoder": CLIPTextModel(text_config(WIDTHS[kind][0], act))}
        return StableDiffusionPipeline(
            **parts,
            tokenizer=clip_tokenizer(WORDS, padding=padding),
            scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def text_config(width: int, act: str) -> CLIPTextConfig:
    """Make the settings of a text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=2,
    )


def autoencoder(kind: Kind) -> AutoencoderKL:
    """Make an autoencoder of four levels, each of 32 channels."""
    return AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        scaling_factor=0.13025 if kind == "xl" else 0.18215,
    )


def denoiser(kind: Kind, channels: int) -> UNet2DConditionModel:
    """Make a UNet of two levels."""
    added: dict[str, Any] = {}
    if kind == "xl":
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        added |= {"projection_class_embeddings_input_dim": 8 * 6 + WIDTHS["xl"][1]}
        added |= {"transformer_layers_per_block": (1, 2)}
    deep = ("DownBlock2D", "CrossAttnDownBlock2D") if kind == "xl" else ("CrossAttnDownBlock2D", "DownBlock2D")
    return UNet2DConditionModel(
        sample_size=128 if kind == "xl" else 64,
        in_channels=channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=deep,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(deep)),
        cross_attention_dim=sum(WIDTHS[kind]) if kind == "xl" else WIDTHS[kind][0],
        attention_head_dim=8 if kind == "one" else (1, 1),
        use_linear_projection=kind != "one",
        **added,
    )


RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_NAMES: Final = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def original_unet_name(name: str, unet: Any) -> str:
    """The name of one of the UNet's tensors in the original layout."""
    per_level = unet.config.layers_per_block + 1
    for new, old in UNET_NAMES.items():
        if name.startswith(f"{new}."):
            name = name.replace(new, old, 1)
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
        side, level, layers, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        block = level * per_level + number + (side == "down")
        if layers == "downsamplers":
            name = f"input_blocks.{(level + 1) * per_level}.0.op.{rest.removeprefix('conv.')}"
        elif layers == "upsamplers":
            place = 2 if "CrossAttn" in unet.config.up_block_types[level] else 1
            name = f"output_blocks.{(level + 1) * per_level - 1}.{place}.{rest}"
        else:
            where = "input_blocks" if side == "down" else "output_blocks"
            name = f"{where}.{block}.{0 if layers == 'resnets' else 1}.{rest}"
    for new, old in RESNET.items() if "transformer_blocks" not in name else ():
        name = re.sub(rf"(blocks?\.\d+(\.0)?\.){new}\.", rf"\g<1>{old}.", name)
    return f"model.diffusion_model.{name}"


def original_vae_tensor(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """The name and value of one of the autoencoder's tensors in the original layout."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = name.replace("down_blocks.", "down.").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("resnets", "block").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for new, old in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
    return f"first_stage_model.{name}", tensor


def open_clip_tensors(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder's tensors in OpenCLIP's layout."""
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    width = encoder.config.hidden_size
    made = {
        "positional_embedding": tensors["embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["embeddings.token_embedding.weight"],
        "ln_final.weight": tensors["final_layer_norm.weight"],
        "ln_final.bias": tensors["final_layer_norm.bias"],
        "text_projection": tensors.get("text_projection.weight", torch.eye(width)).T.contiguous(),
        "logit_scale": torch.ones(()),
    }
    for number in range(encoder.config.num_hidden_layers):
        old, new = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            joined = torch.cat([tensors[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"])
            made[f"{new}attn.in_proj_{kind}"] = joined
            made[f"{new}attn.out_proj.{kind}"] = tensors[f"{old}self_attn.out_proj.{kind}"]
            for ours, theirs in {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}.items():
                made[f"{new}{theirs}.{kind}"] = tensors[f"{old}{ours}.{kind}"]
            for ours, theirs in {"fc1": "c_fc", "fc2": "c_proj"}.items():
                made[f"{new}mlp.{theirs}.{kind}"] = tensors[f"{old}mlp.{ours}.{kind}"]
    return {f"{prefix}{name}": tensor for name, tensor in made.items()}


def clip_tensors(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder's tensors in OpenAI's layout."""
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in encoder.state_dict().items()
    }


def original_tensors(kind: Kind, pipeline: Any) -> dict[str, Tensor]:
    """All tensors of a pipeline in the original layout."""
    unet, vae = pipeline.unet, pipeline.vae
    tensors = {original_unet_name(name, unet): tensor for name, tensor in unet.state_dict().items()}
    tensors |= dict(original_vae_tensor(name, tensor, 4) for name, tensor in vae.state_dict().items())
    if kind == "one":
        tensors |= clip_tensors(pipeline.text_encoder, "cond_stage_model.transformer.")
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif kind == "two":
        tensors |= open_clip_tensors(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= clip_tensors(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip_tensors(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    return tensors


def tiny_single_file(kind: Kind, path: Path, *, keys: tuple[str, ...] = (), channels: int = 4) -> Path:
    """Write a tiny base as a single file; `keys` are names of empty marks such as `v_pred`."""
    tensors = original_tensors(kind, tiny_pipeline(kind, channels=channels))
    tensors |= {key: torch.zeros(0) for key in keys}
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path
