"""TODO models.families.base_source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mascot.errors import UserError
from mascot.models import starter
from mascot.models.pipeline_files import tensor_names

WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
"""How files of weights end."""


def source_of(base: str) -> str:
    """Turn what the user calls a base into a folder, a file or a hub id: `starter` is the embedded one."""
    return str(starter.folder()) if base == "starter" else base


def joined(base: str) -> tuple[str, ...]:
    """The bases that FIRST+SECOND is joined of, in the order in which they draw; one that is there under its whole name is itself.

    Every part must be there, or look like a hub id: a name that merely holds a + is not split.
    """
    if not may_be_there(base):
        for match in re.finditer(r"\+", base):
            first, rest = base[: match.start()], joined(base[match.end() :])
            if may_be_there(first) and all(map(may_be_there, rest)):
                return first, *rest
    return (base,)


def may_be_there(base: str) -> bool:
    """Whether a base is there, or is written like a hub id, which is never one with a +."""
    return base == "starter" or is_hub_id(base) or bool(base.strip() and Path(base).exists())


def is_hub_id(base: str) -> bool:
    """Whether a name is written like owner/name and not like a file; versions in it (`xl-base-1.0`) are no file's ending."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base, re.ASCII) is not None and not base.endswith(WEIGHTS)


def read_description(base: str) -> dict[str, Any]:
    """Read the `model_index.json` of one base, or what a checkpoint's tensors say in its place."""
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
                f"{base} holds no model_index.json; give a folder in the diffusers layout, a .safetensors checkpoint or a hub id."
            )
        return read_index(index)
    if path.is_file():
        return {"_class_name": pipeline_in(path)} if path.suffix == ".safetensors" else refuse_file(base)
    if not is_hub_id(base):
        raise UserError(
            f"the base {base!r} does not exist; give 'starter', a folder, a .safetensors file or a hub id such as owner/name."
        )
    return read_index(download_index(base))


CHECKPOINTS: Mapping[str, str] = {
    "conditioner.embedders.1.": "StableDiffusionXLPipeline",
    "model.diffusion_model.joint_blocks.": "StableDiffusion3Pipeline",
    "double_blocks.": "FluxPipeline",
    "model.diffusion_model.double_blocks.": "FluxPipeline",
    "cond_stage_model.": "StableDiffusionPipeline",
}
"""How some key of a single-file checkpoint begins -> the pipeline that it holds; the first that fits."""


def pipeline_in(checkpoint: Path) -> str:
    """Tell which pipeline a single-file checkpoint holds, by the names of its tensors alone.

    Raises:
        UserError: it cannot be read, or holds something else (a LoRA, one part of a base).
    """
    try:
        names = tensor_names(checkpoint)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"the base {checkpoint} cannot be loaded (it is no whole .safetensors file); download it again."
        ) from error
    for beginning, pipeline in CHECKPOINTS.items():
        if any(name.startswith(beginning) for name in names):
            return pipeline
    raise UserError(
        f"the base {checkpoint} cannot be loaded (it holds no model that mascot knows); "
        "give a whole checkpoint, a folder in the diffusers layout or a hub id."
    )


def refuse_file(base: str) -> dict[str, Any]:
    """Say why a file is no base."""
    raise UserError(f"{base} is not a .safetensors file; convert it first: mascot never opens pickled checkpoints.")


def read_index(path: Path) -> dict[str, Any]:
    """Parse a `model_index.json`."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(index, dict)
    except (OSError, ValueError, RecursionError, AssertionError) as error:
        raise UserError(f"{path} is not valid JSON; download the base again.") from error
    return index


def download_index(base: str) -> Path:
    """Fetch a hub model's index alone."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(base, "model_index.json"))
    except Exception as error:
        raise UserError(
            f"the base {base!r} is no local folder and could not be fetched from the model hub ({type(error).__name__}); "
            "check the name and the network, or use --base starter."
        ) from error
