"""A tiny random-weight Stable Diffusion, which loads and trains in a fraction of a second."""

# diffusers and transformers annotate some arguments by their defaults: a tuple of one, never None.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mascot.protocols import Companion, ParameterGroup, Subject

WORDS = tuple(
    "a an the of in on at with and to is photo picture painting dog cat toy person style sks snow beach jungle "
    "city street grass water mountain red blue green wooden floor hat wearing background night".split()
)
"""Words that are single tokens of the tiny tokenizer; all other text is split into bytes."""
SIDE = 64
"""Side of the tiny models' images, in pixels."""
WIDTH = 32
"""Width of the tiny text embeddings."""
SUBJECT = Subject("sks", "dog")
"""The subject that tests train."""


class Idle:
    """An attached method that trains nothing, for the loss of the base model."""

    groups: tuple[ParameterGroup, ...] = ()
    changes_base = False

    def after_step(self) -> None:
        """Change nothing."""

    def base_only(self) -> AbstractContextManager[None]:
        """Change nothing: the base model is always there."""
        return nullcontext()

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Export nothing."""
        return {}, {}

    def companions(self) -> Mapping[str, Companion]:
        """Return no companions."""
        return {}

    def detach(self) -> None:
        """Change nothing, since nothing is attached."""


def tiny_stable_diffusion(
    folder: Path, *, prediction_type: Literal["epsilon", "v_prediction"] = "epsilon", seed: int = 0
) -> Path:
    """Write a Stable Diffusion pipeline of random weights into `folder` and return the folder.

    It is smaller than 3 MB and generates 64 px. One seed always gives the same bytes.
    """
    tokenizer = tiny_clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionPipeline(
            vae=_autoencoder(),
            text_encoder=CLIPTextModel(text_config(tokenizer)),
            tokenizer=tokenizer,
            unet=_denoiser(),
            scheduler=_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_clip_tokenizer(words: tuple[str, ...] = WORDS, positions: int = 77) -> CLIPTokenizer:
    """Build CLIP's byte-pair tokenizer over a few words, each of them one token.

    `positions` is the length of a prompt in tokens, start and end token included.
    """
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = _merged([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            tokens.append(pieces[0] + pieces[1])
            pieces = [tokens[-1], *pieces[2:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=positions
    )


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Join neighbors as byte-pair encoding does: always the pair that was merged first."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while known := [pair for pair in pairwise(pieces) if pair in ranks]:
        index = list(pairwise(pieces)).index(min(known, key=ranks.__getitem__))
        pieces = [*pieces[:index], pieces[index] + pieces[index + 1], *pieces[index + 2 :]]
    return pieces


def text_config(tokenizer: CLIPTokenizer, **options: Any) -> CLIPTextConfig:
    """Make the settings of a CLIP text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def _autoencoder() -> AutoencoderKL:
    """Make an autoencoder of four levels like the real one: latents have an eighth of the side."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
    )


def _denoiser() -> UNet2DConditionModel:
    """Make a UNet of two levels."""
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    """Make a scheduler with Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
