"""Names of tensors and metadata in a low-rank adapter file, as diffusers and peft use them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import nn

from mascot.errors import UserError
from mascot.storage.strict_parsing import MalformedText, parse_json

METADATA_KEY: Final = "lora_adapter_metadata"
"""Metadata key where diffusers looks for ranks and alphas.

Without it, diffusers silently takes alpha to equal the rank.
"""
DOWN: Final = ".lora_A.weight"
"""Name ending of the down projection: rank x in, or rank x in x height x width of a convolution."""
UP: Final = ".lora_B.weight"
"""Name ending of the up projection: out x rank, or out x rank x 1 x 1 of a convolution."""
MAGNITUDE: Final = ".lora_magnitude_vector"
"""Name ending of a DoRA's magnitudes."""
TENSOR_MARKS: Final = (".lora_", ".hada_", ".lokr_")
"""One of these stands in the name of every low-rank tensor: LoRA and DoRA, LoHa, LoKr."""
TEXT_PREFIX: Final = "text_model."
"""Prefix of text encoder layers in files; transformers 5 dropped it from its modules."""
T5_PREFIX: Final = "encoder.block."
"""How the layers of a T5 begin, in files and modules."""
MOST_RANK: Final = 4096
"""Largest rank that is read from a file."""
LARGEST_ALPHA: Final = 1e6
"""Largest alpha that is read from a file, of either sign."""
MOST_PATTERNS: Final = 20_000
"""Most layers for which metadata may record a rank or an alpha of their own."""
MOST_WILDCARDS: Final = 50
"""Most patterns with wildcards among them."""
PLAIN: Final = re.compile(r"[\w.-]+")
"""A layer's name, or its end."""
WILDCARD: Final = re.compile(r"\.[*+]|\\d\+?|\[0-9\]\+?")
"""What a simple pattern may hold besides names."""

Value = TypeVar("Value")
Alpha = Annotated[float, Field(ge=-LARGEST_ALPHA, le=LARGEST_ALPHA, allow_inf_nan=False)]


def name_in_file(part: str, key: str) -> str:
    """Name a layer as other tools do: layers of text encoders begin with `text_model.`.

    A projection after the encoder stands outside it, and a T5 has no such prefix.
    """
    inside = part.startswith("text_encoder") and not key.startswith((TEXT_PREFIX, "text_projection", T5_PREFIX))
    return f"{TEXT_PREFIX}{key}" if inside else key


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


class PartSettings(BaseModel):
    """What a file's metadata says about the low-rank layers of one part.

    Patterns map a layer's name, or its end, to a value of its own. They are peft's, which takes
    them as regular expressions; only simple ones are read (see `Patterns`).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    r: int | None = Field(default=None, ge=1, le=MOST_RANK)
    lora_alpha: Alpha | None = None
    alpha: Alpha | None = None
    """Alpha of a LoHa or a LoKr."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=MOST_RANK)]] | None = Field(
        default=None, max_length=MOST_PATTERNS
    )
    alpha_pattern: dict[str, Alpha] | None = Field(default=None, max_length=MOST_PATTERNS)
    use_rslora: bool | None = None

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def check_patterns(cls, patterns: dict[str, Value] | None) -> dict[str, Value] | None:
        """Refuse patterns that are more than names with a few wildcards."""
        for pattern in patterns or {}:
            if not PLAIN.fullmatch(pattern) and not is_simple(pattern):
                raise ValueError(f"the pattern {pattern[:60]!r} is not a layer's name with up to two wildcards")
        if sum(not PLAIN.fullmatch(pattern) for pattern in patterns or {}) > MOST_WILDCARDS:
            raise ValueError(f"more than {MOST_WILDCARDS} patterns have wildcards")
        return patterns

    def rank_of(self, layer: str) -> int | None:
        """Return the rank of a layer; None where the metadata does not say."""
        return find_pattern(self.rank_pattern or {}, layer, self.r)

    def alpha_of(self, layer: str, default: float) -> float:
        """Return the alpha of a layer of a LoRA."""
        return find_pattern(self.alpha_pattern or {}, layer, default if self.lora_alpha is None else self.lora_alpha)


def is_simple(pattern: str) -> bool:
    """Tell whether a regular expression is a name with up to two wildcards, which matches fast."""
    literal, wildcards = WILDCARD.subn("", pattern.replace(r"\.", "."))
    return wildcards <= 2 and re.fullmatch(r"\^?[\w.-]*\$?", literal) is not None


def find_pattern(patterns: Mapping[str, Value], layer: str, default: Value) -> Value:
    """Return the value of the first pattern that matches a layer, as peft matches them.

    A pattern matches a whole name, or its end after a dot. Text encoders are written with and
    without `text_model.`.
    """
    short = layer.removeprefix(TEXT_PREFIX)
    words = [TEXT_PREFIX.removesuffix("."), *short.split(".")]
    ends = [".".join(words[start:]) for start in range(len(words))]
    for pattern in with_wildcards(tuple(patterns)):
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in (short, f"{TEXT_PREFIX}{short}")):
            return patterns[pattern]
    return next((patterns[end] for end in ends if end in patterns), default)


@lru_cache(maxsize=16)
def with_wildcards(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Select the patterns that are more than a name; a file's are the same for all its layers."""
    return tuple(pattern for pattern in patterns if not PLAIN.fullmatch(pattern))


def first_mistake(error: ValidationError) -> str:
    """Describe the first of pydantic's mistakes in half a line: where it is, and what is wrong."""
    mistake = error.errors()[0]
    where = ".".join(str(step) for step in mistake["loc"])[:80]
    message = mistake["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def read_settings(metadata: Mapping[str, str], key: str = METADATA_KEY) -> dict[str, PartSettings]:
    """Read what `write_metadata` wrote, by part; empty where the key is missing.

    Raises:
        UserError: the value is not a JSON object of ranks and alphas.
    """
    try:
        values = parse_json(metadata.get(key, "{}"))
    except MalformedText as error:
        raise UserError("this adapter's metadata is damaged: it is not JSON; export it again.") from error
    if not isinstance(values, dict):
        raise UserError("this adapter's metadata is damaged: it is no table; export it again.")
    parts: dict[str, dict[str, object]] = {}
    for path, value in values.items():
        part, _, name = str(path).partition(".")
        parts.setdefault(part, {})[name] = value
    try:
        return {part: PartSettings.model_validate(settings) for part, settings in parts.items()}
    except ValidationError as error:
        raise UserError(f"this adapter's metadata is damaged ({first_mistake(error)}); export it again.") from error
