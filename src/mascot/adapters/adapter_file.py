"""The adapter file: trained tensors under the names other tools read, and a manifest."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)
from torch import Tensor

from mascot.adapters.adapter_checks import AGAIN, check_adapter, check_foreign, check_words
from mascot.adapters.foreign_formats import describe_pickle
from mascot.adapters.formats.numbered_layers import WORD_MARK
from mascot.adapters.formats.registry import ConvertedAdapter, is_foreign, read_format
from mascot.adapters.formats.word_files import tensors_in_pickle
from mascot.adapters.headers.tensor_hashes import fill_hashes, with_places
from mascot.adapters.lora_keys import METADATA_KEY, first_mistake
from mascot.adapters.peft_folder import is_peft_folder, read_peft_folder, settings_beside
from mascot.errors import UserError
from mascot.protocols import Subject
from mascot.storage.tensor_files import read_pickled, read_tensors, write_tensors
from mascot.storage.untrusted_files import UnreadableFile

MANIFEST_KEY = "mascot"
"""Metadata key of the manifest."""

PICKLED = (".pt", ".bin")
"""File name extensions of pickled words and of cloneofsimo's layers."""
BESIDE = (".text_encoder.pt", ".ti.pt")
"""File name extensions of the files beside a UNet's that cloneofsimo's program wrote."""
SAFE_REMEDY = "give a .safetensors file"

Value = TypeVar("Value")


class SubjectRecord(BaseModel):
    """One of several subjects of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Its placeholder in prompts: `{rex}`."""
    token: str
    class_noun: str | None


class Manifest(BaseModel):
    """How an adapter was trained: its method, base model, subject, and complete recipe.

    It is stored as JSON in the metadata of the adapter file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    method: str
    base: str = Field(min_length=1)
    base_identity: str
    """Hash of the base model's weights (`Family.identity`)."""
    token: str = Field(pattern=r"\S")
    """The token of the subject, or of the first of several."""
    class_noun: str | None = Field(pattern=r"\S")
    resolution: int = Field(ge=8, le=8192)
    """Side of the generated images in pixels."""
    step: int = Field(ge=0, le=10**9)
    """Optimizer steps that the exported weights were trained for."""
    recipe: dict[str, Any]
    knobs: dict[str, Any] | None = None
    """Recommended inference knobs, found by the knob search; None where it did not run."""
    subjects: tuple[SubjectRecord, ...] = ()
    """All subjects, where the adapter has several; not written where it has one."""

    @model_serializer(mode="wrap")
    def write_subjects(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `subjects` out where there is one."""
        values: dict[str, Any] = handler(self)
        return values if self.subjects else {key: value for key, value in values.items() if key != "subjects"}

    @property
    def subject(self) -> Subject:
        """The subject, or the first of several, which knows the others."""
        if not self.subjects:
            return Subject(token=self.token, class_noun=self.class_noun)
        first, *others = [Subject(one.token, one.class_noun, one.name) for one in self.subjects]
        return replace(first, others=tuple(others))

    @field_validator("recipe", "knobs")
    @classmethod
    def check_values(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        """Check that all numbers are finite, and that a recipe's sections are tables.

        What stands in a section is checked where it is used.
        """
        try:
            RecordedSections.model_validate(values or {})
        except ValidationError as error:
            raise ValueError(first_mistake(error)) from None
        check_numbers(values)
        return values


class RecordedDataset(BaseModel):
    """What is used of a recorded recipe's section `dataset`."""

    background: str = "white"


class RecordedDiagnosis(BaseModel):
    """What is used of a recorded recipe's section `diagnosis`."""

    active: bool = True
    images: int = Field(default=2, ge=2, le=100)


class RecordedSections(BaseModel):
    """The kinds of a recorded recipe's entries; recipes of older versions have fewer."""

    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    dataset: RecordedDataset = RecordedDataset()
    diagnosis: RecordedDiagnosis = RecordedDiagnosis()
    method: dict[str, Any] = Field(default_factory=dict[str, Any])
    training: dict[str, Any] = Field(default_factory=dict[str, Any])
    prior: dict[str, Any] = Field(default_factory=dict[str, Any])
    previews: dict[str, Any] = Field(default_factory=dict[str, Any])
    selection: dict[str, Any] = Field(default_factory=dict[str, Any])


def check_numbers(value: object) -> None:
    """Refuse numbers in nested values that are not finite, or too large for a float.

    Raises:
        ValueError: there is one.
    """
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            check_numbers(inner)
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{str(value)[:20]} is no number that a recipe can have")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The content of one adapter file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    """What the method needs besides the tensors, such as ranks and alphas."""
    manifest: Manifest | None
    """None in a file that another tool wrote."""
    format: str | None = None
    """The other tool's format that it was read from; None in our own form."""

    def write(self, path: Path) -> None:
        """Write a safetensors file atomically; equal adapters give equal bytes.

        The hashes in its header are computed anew (see `headers`).

        Raises:
            UserError: the file cannot be written; an older file at `path` is kept.
        """
        header = {"format": "pt", **with_places(self.metadata)}
        if self.manifest is not None:
            header[MANIFEST_KEY] = json.dumps(self.manifest.model_dump(mode="json"), sort_keys=True)
        write_tensors(path, self.tensors, header, finish=fill_hashes)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an adapter that mascot or another tool wrote; its tensors get our form.

        Raises:
            UserError: the file does not exist, is not a safetensors file or of a format that mascot
                does not read, is damaged, or has a manifest of a newer version.
        """
        if is_peft_folder(path) or settings_beside(path):
            tensors, header = read_peft_folder(path if path.is_dir() else path.parent)
        else:
            tensors, header = read_file(path)
        text = header.pop(MANIFEST_KEY, None)
        header.pop("format", None)
        manifest = read_manifest(path, text) if text is not None else None
        found = None
        if manifest is None or is_foreign(tensors):
            converted = convert_foreign(path, tensors, header)
            tensors, header, found = dict(converted.tensors), dict(converted.metadata), converted.format
        check_adapter(path, tensors, header)
        check_words(path, tensors, header)
        return cls(tensors=tensors, metadata=header, manifest=manifest, format=found)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a file under their own names, and the texts of its header.

    Raises:
        UserError: it does not exist, or is not a whole safetensors file.
    """
    if not path.is_file():
        raise UserError(f"the adapter {path} does not exist; give a run's folder or a .safetensors file.")
    if path.suffix.lower() in PICKLED:
        return read_pickled_words(path)
    try:
        return read_tensors(path)
    except UnreadableFile as error:
        raise UserError(describe_unreadable(path)) from error


def convert_foreign(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> ConvertedAdapter:
    """Turn the content of another tool's file into our form.

    Raises:
        UserError: it is no low-rank adapter, or a tensor or layer cannot be read.
    """
    check_foreign(path, tensors)
    if any(key.endswith(METADATA_KEY) for key in metadata):
        check_adapter(path, tensors, metadata)  # before ranks are read from the tensors
    try:
        return read_format(tensors, metadata, path.stem)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_pickled_words(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a pickled file of tensors, mostly words, without running what it may hold as code.

    cloneofsimo's program wrote three files side by side, for UNet, text encoder and words. They are
    read together.

    Raises:
        UserError: it holds anything but tensors, or other tensors.
    """
    tensors: dict[str, Tensor] = {}
    names = [path, *(path.with_suffix(ending) for ending in BESIDE if path.with_suffix(ending).is_file())]
    for file in names:
        found = tensors_in_pickle(read_pickled(file, remedy=SAFE_REMEDY))
        if found is None:
            raise UserError(f"{file} is a pickled file and holds no tensors of words or layers; {SAFE_REMEDY}.")
        tensors |= found
    return tensors, dict.fromkeys((key for key in tensors if ":" not in key), WORD_MARK) if len(names) > 1 else {}


def describe_unreadable(path: Path) -> str:
    """Write the error message for a file that the safetensors library cannot read."""
    pickled = describe_pickle(path)
    if pickled is None:
        return f"{path} is not a whole .safetensors file; get it again from where it comes from, or train it again."
    return (
        f"{path} is {pickled}, which can run code when it is opened, so mascot never opens it; "
        "give a .safetensors file."
    )


def read_manifest(path: Path, text: str) -> Manifest:
    """Parse the manifest of the adapter file at `path`.

    Raises:
        UserError: the text is not a manifest of this version, or has a value that none can have.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        mistakes = error.errors()
        if any(mistake["loc"] == ("version",) or mistake["type"] == "extra_forbidden" for mistake in mistakes):
            raise UserError(f"{path} was written by another version of mascot; update mascot to read it.") from error
        raise UserError(f"{path} has a damaged manifest ({first_mistake(error)}); {AGAIN}") from error


def join_stages(
    exports: Sequence[tuple[Mapping[str, Tensor], Mapping[str, str]]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Join the exports of a base model's stages into one file's tensors and metadata.

    Names from the second and later stages get the prefix `stage2.`, `stage3.`, and so on.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for number, (stage_tensors, stage_metadata) in enumerate(exports):
        prefix = f"stage{number + 1}." if number else ""
        tensors |= {f"{prefix}{key}": value for key, value in stage_tensors.items()}
        metadata |= {f"{prefix}{key}": value for key, value in stage_metadata.items()}
    return tensors, metadata


def split_stages(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], count: int
) -> list[tuple[dict[str, Tensor], dict[str, str]]]:
    """Split a file's tensors and metadata by stage; the inverse of `join_stages`.

    `count` is the number of the base model's stages. The prefixes `stage2.`, `stage3.`, and so on
    are removed.

    Raises:
        UserError: some tensors belong to a stage that the base model lacks.
    """
    return list(zip(split_by_stage(tensors, count), split_by_stage(metadata, count), strict=True))


def split_by_stage(values: Mapping[str, Value], count: int) -> list[dict[str, Value]]:
    """Split named values by the stage prefix of their names, as `split_stages` does."""
    stages = [dict[str, Value]() for _ in range(count)]
    for key, value in values.items():
        prefix = re.match(r"stage([2-9]|[1-9]\d+)\.", key)
        index = int(prefix[1]) - 1 if prefix else 0
        if index >= count:
            raise UserError(
                f"this adapter was trained for a stage {index + 1}, and this base has {count}; "
                "give the base that it was trained on, all stages joined by + (--base FIRST+SECOND)."
            )
        stages[index][key[prefix.end() :] if prefix else key] = value
    return stages
