"""Tiny random-weight models that write captions, in folders as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

WORDS = "a an the dog owl on in grass snow red blue brown sitting standing at night with hat photo of shows".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"]


def tiny_tokenizer(*more: str, **named: str) -> PreTrainedTokenizerFast:
    """Build a tokenizer of whole words."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a word, not a secret
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad", "unk", "cls", "sep", "bos", "eos"), SPECIAL, strict=True))
    ends = {f"{name}_token": text for name, text in names.items()}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=named, **ends)
    made.add_special_tokens({"additional_special_tokens": list(more)})
    return made


def tiny_blip(folder: Path) -> Path:
    """Write a BLIP."""
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(tokenizer), "encoder_hidden_size": 16, "max_position_embeddings": 80}
    ends = {"bos_token_id": 4, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3}
    config = BlipConfig(text_config=text | ends, vision_config=sizes | {"image_size": 32, "patch_size": 8})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def tiny_qwen(folder: Path) -> Path:
    """Write a Qwen2-VL."""
    marks = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = tiny_tokenizer(*marks)
    start, image, end, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": 4,
            "eos_token_id": 5,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        vision_start_token_id=start,
        image_token_id=image,
        vision_end_token_id=end,
        video_token_id=video,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112).save_pretrained(folder)
    return folder


def tiny_florence(folder: Path) -> Path:
    """Write a Florence-2."""
    tokenizer = tiny_tokenizer(image_token="<image>")  # noqa: S106 - a word, not a secret
    image = tokenizer.convert_tokens_to_ids("<image>")
    text = {
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 256,
        "bos_token_id": 4,
        "eos_token_id": 5,
        "pad_token_id": 0,
        "decoder_start_token_id": 9,  # a word, which random weights repeat
        "forced_eos_token_id": 5,
    }
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 16, 16],
        "num_heads": [1, 1, 2, 2],
        "num_groups": [1, 1, 2, 2],
        "window_size": 2,
        "projection_dim": 16,
    }
    config = Florence2Config(text_config=text | {"model_type": "bart"}, vision_config=vision, image_token_id=image)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


TINY_CAPTIONERS: Mapping[str, Callable[[Path], Path]] = {
    "blip": tiny_blip,
    "qwen2_vl": tiny_qwen,
    "florence2": tiny_florence,
}


def tiny_captioner(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write one of them into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = TINY_CAPTIONERS[kind](folder)
    return made
