"""Trained token embeddings in an adapter file: the names of their rows, and their metadata.

Shape suffixes: N embedding rows of a token, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from mascot.errors import UserError

BUNDLE = "bundle_emb."
"""Prefix of rows' names in a file that holds more than one token's; the token and a dot follow.

A1111 and ComfyUI read this form.
"""
ENCODERS = ("clip_l", "clip_g")
"""Tensor names of two text encoders' rows in a file, in the encoders' order."""
RECORDS_KEY: Final = "textual_inversion"
"""Metadata key of the `TokenRecord`s.

diffusers takes the token from the only tensor's name, or from its caller.
"""
MOST_ROWS: Final = 75
"""Most rows of a token: CLIP reads 77 tokens of a prompt, with the first and the last its own."""


class TokenRecord(BaseModel):
    """What a file's metadata says about one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"\S")
    vectors: int = Field(ge=1, le=MOST_ROWS)
    """Embedding rows of the token, N."""
    initial: dict[str, str]
    """Text encoder -> the words that its rows started from."""


def one_or_more(value: object) -> object:
    """Read one record as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


RECORDS: TypeAdapter[tuple[TokenRecord, ...]] = TypeAdapter(
    Annotated[tuple[TokenRecord, ...], BeforeValidator(one_or_more), Field(min_length=1)]
)
"""Reads one record or a list of them."""


def read_records(metadata: Mapping[str, str]) -> tuple[TokenRecord, ...]:
    """Read the records that `write_records` wrote, one for each token of a file.

    Raises:
        UserError: they are missing or damaged.
    """
    try:
        return RECORDS.validate_json(metadata[RECORDS_KEY])
    except KeyError:
        raise UserError(
            "this adapter does not say which token it trained; export it again with its metadata."
        ) from None
    except ValidationError as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error


def write_records(records: Sequence[TokenRecord]) -> dict[str, str]:
    """Return records as metadata of a safetensors file: one record, or a list of several."""
    values = [record.model_dump(mode="json") for record in records]
    return {RECORDS_KEY: json.dumps(values[0] if len(values) == 1 else values, sort_keys=True)}


def bundle_prefix(token: str) -> str:
    """Return the prefix of a token's rows in a file that holds more than them."""
    return f"{BUNDLE}{token}."


def rows_of(token: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select a token's rows in a file by their prefix, and remove it from the names."""
    prefix = bundle_prefix(token)
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def file_keys(parts: Iterable[str], token: str) -> dict[str, str]:
    """Map each text encoder to the name of its rows in a file.

    The name is the token itself where there is one text encoder, else one of ENCODERS.
    """
    names = tuple(parts)
    return dict.fromkeys(names, token) if len(names) == 1 else dict(zip(names, ENCODERS, strict=True))


def rows_to_file(rows: Mapping[str, Tensor], token: str) -> dict[str, Tensor]:
    """Copy each text encoder's rows under their name in a file, float32, to the CPU.

    A method that writes more tensors may put a prefix before these names.
    """
    keys = file_keys(rows, token)
    return {keys[part]: rows_ND.detach().float().cpu().clone().contiguous() for part, rows_ND in rows.items()}


def rows_from_file(tensors: Mapping[str, Tensor], token: str, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy rows from a file by text encoder; the inverse of `rows_to_file`.

    The copies have the dtypes and devices of `initial`, and must have its shapes.

    Raises:
        UserError: names or shapes differ from those of this base model.
    """
    keys = file_keys(initial, token)
    need = {keys[part]: tuple(rows_ND.shape) for part, rows_ND in initial.items()}
    have = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if need != have:
        found = ", ".join(f"{key} {shape}" for key, shape in list(have.items())[:3]) or "nothing"
        wanted = ", ".join(f"{key} {shape}" for key, shape in need.items())
        raise UserError(
            f"this adapter does not fit the base: it holds {found}, and {wanted} is needed; "
            "use the base it was trained on."
        )
    return {part: tensors[keys[part]].to(rows_ND).clone() for part, rows_ND in initial.items()}
