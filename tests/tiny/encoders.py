"""Tiny random-weight image encoders, in folders as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTModel

from tiny.stable_diffusion import tiny_clip_tokenizer

SIDE = 32
"""Side of their input images, in pixels."""
POSITIONS = 12
"""Number of tokens that the tiny CLIP reads, start and end token included."""
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}


def tiny_identity(folder: Path, *, seed: int = 0) -> Path:
    """Write a vision transformer, which stands in for DINO, into `folder` and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ViTModel(ViTConfig(image_size=SIDE, **SIZES)).half().save_pretrained(folder)
    settings = {
        "size": {"shortest_edge": SIDE},
        "crop_size": SIDE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP and its tokenizer into `folder` and return the folder."""
    tokenizer = tiny_clip_tokenizer(positions=POSITIONS)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    text = {key: SIZES[key] for key in SIZES if key != "patch_size"} | ends | {"vocab_size": len(tokenizer)}
    config = CLIPConfig(
        text_config=text | {"max_position_embeddings": POSITIONS},
        vision_config=SIZES | {"image_size": SIDE},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPModel(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return folder
