"""The source of a base: what `--base` names, and which diffusers pipeline it holds."""

from __future__ import annotations

import re
from pathlib import Path

from mascot.errors import UserError, raise_unrelated
from mascot.models import starter
from mascot.models.base_files.file_contents import read_contents
from mascot.storage.model_hub import check_model_folder, hub_file, why_unavailable
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
"""File name extensions of weights."""


def source_of(base: str) -> str:
    """Return the folder, file or hub id of a base: `starter` is the folder of the embedded one."""
    return str(starter.folder()) if base == starter.EMBEDDED else base


def split_cascade(base: str) -> tuple[str, ...]:
    """Split FIRST+SECOND into the bases of a cascade, in the order in which they generate.

    A base that exists under its whole name is not split. A name that merely contains a + is not
    split either: every part must exist, or look like a hub id.
    """
    if not may_exist(base):
        for match in re.finditer(r"\+", base):
            first, rest = base[: match.start()], split_cascade(base[match.end() :])
            if may_exist(first) and all(map(may_exist, rest)):
                return first, *rest
    return (base,)


def may_exist(base: str) -> bool:
    """Tell whether a base exists locally, or looks like a hub id (which never has a +)."""
    return base == starter.EMBEDDED or is_hub_id(base) or bool(base.strip() and Path(base).exists())


def is_hub_id(base: str) -> bool:
    """Tell whether a name looks like owner/name and not like a file of weights.

    A version in it (`xl-base-1.0`) is no file name extension.
    """
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base, re.ASCII) is not None and not base.lower().endswith(WEIGHTS)


def read_index_of(base: str) -> dict[str, object]:
    """Return the `model_index.json` of one base.

    For a single file it is made from the names of the file's tensors.

    Raises:
        UserError: the base does not exist, or is no diffusers pipeline and no known checkpoint.
    """
    if not base.strip():
        raise UserError(
            "the base is empty; give 'starter', a folder, a .safetensors file or a hub id such as owner/name."
        )
    source = source_of(base)
    path = Path(source)
    if path.is_dir():
        index = path / "model_index.json"
        if not index.exists():
            raise UserError(
                f"{base} holds no model_index.json; "
                "give a folder in the diffusers layout, a .safetensors checkpoint or a hub id."
            )
        found = read_index(index)
        try:
            check_model_folder(path)
        except UnreadableFile as error:
            raise UserError(
                f"the base {base} cannot be loaded ({error.path}: {error.reason}); download it again."
            ) from error
        return found
    if path.is_file():
        return {"_class_name": pipeline_in(path)}
    if not is_hub_id(base):
        raise UserError(
            f"the base {base!r} does not exist; "
            "give 'starter', a folder, a .safetensors file or a hub id such as owner/name."
        )
    return read_index(download_index(base))


def pipeline_in(checkpoint: Path) -> str:
    """Return the pipeline class of a single-file checkpoint, from the names of its tensors alone.

    Raises:
        UserError: the file cannot be read, or holds something else (a LoRA, one part of a base).
    """
    if checkpoint.suffix.lower() != ".safetensors":
        raise UserError(
            f"{checkpoint} is not a .safetensors file; convert it first: mascot never opens pickled checkpoints."
        )
    return read_contents(checkpoint).pipeline


def read_index(path: Path) -> dict[str, object]:
    """Parse a `model_index.json`.

    Raises:
        UserError: the file is no JSON object.
    """
    try:
        return read_json_object(path)
    except UnreadableFile as error:
        raise UserError(f"{path} is not valid JSON ({error.reason}); download the base again.") from error


def download_index(base: str) -> Path:
    """Download the `model_index.json` of a hub model, and nothing else.

    Raises:
        UserError: the hub does not have it, or cannot be reached.
    """
    try:
        return hub_file(base, "model_index.json")
    except Exception as error:
        raise_unrelated(error)
        raise UserError(
            f"the base {base!r} is no local folder and could not be fetched from the model hub "
            f"({why_unavailable(base, error)}); check the name and the network, or use --base starter."
        ) from error
