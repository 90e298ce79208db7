"""The adapter file: tensors under the names other tools read, and a manifest of what made it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write

MANIFEST_KEY = "mascot"


class Manifest(BaseModel):
    """What made an adapter, kept in the file's metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    method: str
    base: str
    base_identity: str
    token: str
    class_noun: str | None
    resolution: int
    step: int
    recipe: dict[str, Any]
    knobs: dict[str, Any] | None = None
    """The knobs that were measured to draw it best; None where none were searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One file: `tensors`, the metadata that their method needs, and the manifest (None in another tool's file)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    manifest: Manifest | None

    def write(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all; equal adapters give equal bytes."""
        header = {"format": "pt", **self.metadata}
        if self.manifest is not None:
            header[MANIFEST_KEY] = json.dumps(self.manifest.model_dump(mode="json"), sort_keys=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(with_sorted_header(save(dict(self.tensors), metadata=header)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an adapter of ours or of another tool.

        Raises:
            UserError: the file is not there, is no safetensors file, or has a manifest of a newer version.
        """
        if not path.is_file():
            raise UserError(f"the adapter {path} does not exist; give a run's folder or a .safetensors file.")
        try:
            with safe_open(path, framework="pt") as file:
                header: dict[str, str] = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a whole .safetensors file; mascot never opens pickled weights: export it again."
            ) from error
        text = header.pop(MANIFEST_KEY, None)
        header.pop("format", None)
        return cls(tensors=tensors, metadata=header, manifest=read_manifest(path, text) if text is not None else None)


def join_stages(
    exports: Sequence[tuple[Mapping[str, Tensor], Mapping[str, str]]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Put what each stage of a base learned into one: the names of later stages' tensors and metadata begin with stage2., stage3., ..."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for number, (learned, facts) in enumerate(exports):
        prefix = f"stage{number + 1}." if number else ""
        tensors |= {f"{prefix}{key}": value for key, value in learned.items()}
        metadata |= {f"{prefix}{key}": value for key, value in facts.items()}
    return tensors, metadata


def with_sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: safetensors writes metadata in an order that differs between calls."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the tensors aligned
    return len(header).to_bytes(8, "little") + header + content[end:]


def read_manifest(path: Path, text: str) -> Manifest:
    """Parse a manifest."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path} was written by another version of mascot; update mascot to read it.") from error


def split_stages(
    tensors: Mapping[str, Any], metadata: Mapping[str, str], count: int
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Tensors and metadata of each of a base's `count` stages: those of later stages begin with stage2., stage3., ..., which is taken off.

    Raises:
        UserError: some tensors are for a stage that the base lacks.
    """
    kept = [(dict[str, Any](), dict[str, str]()) for _ in range(count)]
    for place, values in enumerate((tensors, metadata)):
        for key, value in values.items():
            prefix = re.match(r"stage([2-9]|[1-9]\d+)\.", key)
            number = int(prefix[1]) - 1 if prefix else 0
            if number >= count:
                raise UserError(
                    f"this adapter teaches a stage {number + 1}, and this base has {count}; "
                    "give the base that it was trained on, all stages joined by + (--base FIRST+SECOND)."
                )
            kept[number][place][key[prefix.end() :] if prefix else key] = value
    return kept
