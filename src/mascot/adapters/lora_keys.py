"""Names of tensors and metadata in a low-rank adapter file, as diffusers and peft use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from torch import nn

from mascot.errors import UserError

METADATA_KEY: Final = "lora_adapter_metadata"
"""Metadata key where diffusers looks for ranks and alphas.

Without it, diffusers silently takes alpha to equal the rank.
"""
DOWN: Final = ".lora_A.weight"
"""Name ending of the down projection: rank x in, or rank x in x height x width of a convolution."""
UP: Final = ".lora_B.weight"
"""Name ending of the up projection: out x rank, or out x rank x 1 x 1 of a convolution."""
TEXT_PREFIX: Final = "text_model."
"""Prefix of text encoder layers in files; transformers 5 dropped it from its modules."""


def name_in_file(part: str, key: str) -> str:
    """Name a layer as other tools do: layers of text encoders begin with `text_model.`."""
    return f"{TEXT_PREFIX}{key}" if part.startswith("text_encoder") and not key.startswith(TEXT_PREFIX) else key


def name_in_module(module: nn.Module, part: str, key: str) -> str:
    """Name a layer as its module does; the inverse of `name_in_file`.

    The prefix is removed where the text encoder is flat. One with a projection is not flat.
    """
    flat = part.startswith("text_encoder") and not hasattr(module, "text_model")
    return key.removeprefix(TEXT_PREFIX) if flat else key


def write_metadata(configs: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Write peft's settings of each part as safetensors metadata, in one line of JSON.

    The settings include ranks and alphas. `configs` maps a part to its peft configuration.
    """
    settings = {
        f"{part}.{key}": sorted(value) if isinstance(value, set) else value
        for part, config in configs.items()
        for key, value in config.items()
    }
    return {METADATA_KEY: json.dumps(settings, sort_keys=True, default=str)}


def read_metadata(metadata: Mapping[str, str]) -> dict[str, object]:
    """Read what `write_metadata` wrote, under `<part>.<setting>`; empty where the key is missing.

    Raises:
        UserError: the value is not a JSON object.
    """
    try:
        settings: object = json.loads(metadata.get(METADATA_KEY, "{}"))
        assert isinstance(settings, dict)
    except (ValueError, RecursionError, AssertionError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error
    return settings
