"""The low-rank adapter file as diffusers and peft know it: what its tensors and its metadata are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from mascot.errors import UserError

METADATA_KEY: Final = "lora_adapter_metadata"
"""Where diffusers looks for ranks and alphas; without it a file's alpha is taken to equal its rank, in silence."""


DOWN: Final = ".lora_A.weight"
"""How the half ends that reads what its layer reads: rank x in, of a convolution rank x in x height x width."""


UP: Final = ".lora_B.weight"
"""How the half ends that writes what its layer writes: out x rank, of a convolution out x rank x 1 x 1."""


TEXT_PREFIX: Final = "text_model."


def file_name(part: str, key: str) -> str:
    """Name a layer as other tools do: their text encoders carry a `text_model.` prefix that transformers 5 dropped."""
    return f"{TEXT_PREFIX}{key}" if part.startswith("text_encoder") and not key.startswith(TEXT_PREFIX) else key


def layer_name(module: nn.Module, part: str, key: str) -> str:
    """The inverse of `file_name`: without the prefix where the text encoder is flat (one with a projection is not)."""
    flat = part.startswith("text_encoder") and not hasattr(module, "text_model")
    return key.removeprefix(TEXT_PREFIX) if flat else key


def metadata_of(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The safetensors metadata that keeps ranks and alphas: the settings that peft has for each part, as one line of JSON."""
    facts = {
        f"{part}.{key}": sorted(value) if isinstance(value, set) else value
        for part, config in configs.items()
        for key, value in config.items()
    }
    return {METADATA_KEY: json.dumps(facts, sort_keys=True, default=str)}


def read_facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `metadata_of`, still under `<part>.<setting>`; nothing where the file says nothing.

    Raises:
        UserError: the metadata is no JSON object.
    """
    try:
        facts: Any = json.loads(metadata.get(METADATA_KEY, "{}"))
        assert isinstance(facts, dict)
    except (ValueError, RecursionError, AssertionError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error
    return facts
