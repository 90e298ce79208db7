"""`convert`: write an adapter in the format of another tool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import is_finite
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.layer_kinds import ALPHA
from mascot.adapters.formats.layer_settings import Layers, read_own
from mascot.adapters.formats.registry import architecture_of, stated_architecture, write_format
from mascot.adapters.lora_keys import MAGNITUDE
from mascot.adapters.peft_folder import write_peft_folder
from mascot.errors import UserError, list_some
from mascot.generation.loading import resolve_adapter
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run

Format = Literal["diffusers", "kohya", "peft", "comfyui"]
Dtype = Literal["fp32", "fp16", "bf16"]
DTYPES: Final[Mapping[str, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SUFFIX: Final = ".safetensors"
OUT_PROJECTION: Final = ".self_attn.out_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written."""

    path: Path
    format: str
    """The format that was read; `mascot` is our own."""
    to: str
    layers: int
    notes: tuple[str, ...]
    """What some tool would make of the file other than what is in it; each one sentence."""


def convert(source: str | Path | Run, out: str | Path, *, to: Format, dtype: Dtype | None = None) -> Conversion:
    """Write an adapter, a run's or any tool's file, in another format.

    Tensors keep their values, and ranks and alphas of each layer their meaning. Words that are
    bundled with the layers go with them.

    Args:
        source: A run, its folder, `RUN@STEP`, an adapter file or a folder of peft.
        out: The file to write; for `peft` a folder, with a subfolder for each part.
        to: The format.
        dtype: The tensors' dtype; None keeps what they have.

    Raises:
        UserError: the source cannot be read, the format has no name for a layer, a value is too
            large for the dtype, or there is something at `out`.
    """
    path = Path(out)
    check_out(path, to)
    adapter, read = resolve_adapter(source)
    layers, _ = read_own(adapter.tensors, adapter.metadata)
    if not layers:
        raise UserError(f"{read} holds no low-rank layers, which alone have other formats; give a LoRA, LoHa or LoKr.")
    architecture = architecture_of(adapter.tensors) or stated_architecture(adapter.tensors, adapter.metadata)
    try:
        tensors, metadata = write_format(to, adapter.tensors, adapter.metadata, architecture)
    except UserError as error:
        raise UserError(f"{read} cannot be written for {to}: {error}") from error
    if dtype is not None:
        tensors = cast(tensors, dtype)
    if to == "peft":
        with atomic_write(path) as temporary:
            write_peft_folder(temporary, tensors, metadata)
    else:
        Adapter(tensors=tensors, metadata=metadata, manifest=adapter.manifest).write(path)
    notes = tuple(notes_on(to, adapter, layers))
    return Conversion(path=path, format=adapter.format or "mascot", to=to, layers=len(layers), notes=notes)


def check_out(path: Path, to: str) -> None:
    """Refuse a place that is taken, or a name that other tools would not find.

    Raises:
        UserError: there is something, or the name of a file does not end in `.safetensors`.
    """
    if path.exists():
        raise UserError(f"{path} exists already; give another name, or delete it first.")
    if to == "peft" and path.suffix == SUFFIX:
        raise UserError(f"peft reads folders, and {path} is named like a file; give {path.with_suffix('')}.")
    if to != "peft" and path.suffix != SUFFIX:
        raise UserError(f"other tools read files that end in {SUFFIX}; give {path}{SUFFIX}.")


def cast(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Cast weights to a dtype; alphas stay as exact as they are.

    Raises:
        UserError: a value is too large for the dtype.
    """
    written = {key: value if key.endswith(ALPHA) else value.to(DTYPES[dtype]) for key, value in tensors.items()}
    wrong = [key for key, tensor in written.items() if not is_finite(tensor)]
    if wrong:
        raise UserError(f"{list_some(wrong)} has values that {dtype} cannot hold; give --dtype bf16 or fp32.")
    return written


def notes_on(to: str, adapter: Adapter, layers: Layers) -> Iterator[str]:
    """Say what tools that read the format make of an adapter other than what is in it."""
    alphas: dict[str, set[float]] = {}
    for (part, _), layer in layers.items():
        alphas.setdefault(part, set()).add(layer.alpha)
    names = list(adapter.tensors)
    is_dora = any(name.endswith(MAGNITUDE) for name in names)
    is_product = any(".hada_" in name or ".lokr_" in name for name in names)
    text = [name for name in names if name.startswith("text_encoder")]
    if is_dora and to in {"kohya", "comfyui"}:
        yield (
            "diffusers drops the magnitudes of a DoRA in this form; give --to diffusers for it. "
            "ComfyUI divides them by the norms of the base's weights, not of the changed ones, so its images differ"
        )
    if is_dora and to == "diffusers" and text:
        yield "diffusers misreads a DoRA of a text encoder; mascot and peft read it"
    if is_product and to != "peft":
        yield "diffusers reads no LoHa or LoKr; mascot, peft and, in kohya's form, ComfyUI, A1111 and LyCORIS do"
    if text and to == "kohya" and not is_product and not any(OUT_PROJECTION in name for name in text):
        yield "diffusers cannot read text encoder layers without out_proj in this form; give --to diffusers for it"
    if to == "kohya" and not is_product and any(len(own) > 1 for own in alphas.values()):
        yield "diffusers gives attention layers the commonest alpha of a file in this form; give --to diffusers for it"
    if text and to == "peft":
        yield "layers of text encoders have the names of transformers 5, which older versions do not find"
