"""TODO models.pipeline_files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import safe_open
from torch import nn

from mascot.errors import UserError

DTYPES: Final[Mapping[str, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLayout:
    """What a kind of diffusers pipeline is made of, by the names of its folders."""

    kind: Any
    """The pipeline's class."""
    denoiser: str
    clips: tuple[str, ...] = ()
    """CLIP text encoders, which may learn, in order."""
    listeners: tuple[str, ...] = ()
    """Text encoders that never learn (a T5)."""
    dispensable: tuple[str, ...] = ()
    """Text encoders that a base may leave out."""
    autoencoder: bool = True
    """Whether there is one; else the denoiser sees pixels."""
    schedulers: tuple[str, ...] = ("scheduler",)
    """Schedulers, which become fields of the stage under the same names."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How the pipeline is opened: what is left out of it on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """The parts of a base that come and go: each is handed out as it was first read, and later read again."""

    layout: PipelineLayout
    source: str
    classes: Mapping[str, Any]
    """Part -> the class that reads it."""
    waiting: dict[str, nn.Module]
    """Parts that were read and not yet asked for."""

    def read(self, name: str) -> nn.Module:
        """One part, float32 on the CPU."""
        if name in self.waiting:
            return self.waiting.pop(name)
        return reload_part(self.layout.kind, self.source, name, self.classes[name], **self.layout.options)

    def reopen(self) -> Any:
        """The whole pipeline, read again, float32 on the CPU."""
        return open_pipeline(self.layout.kind, self.source, **self.layout.options)


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a module in place; diffusers' own `to` warns of a dtype's effect on layers that its models do not have."""
    return nn.Module.to(module, device, dtype)


def tokenizer_of(encoder: str) -> str:
    """The name of a text encoder's tokenizer: `tokenizer_2` for `text_encoder_2`."""
    return encoder.replace("text_encoder", "tokenizer")


def open_pipeline(kind: Any, source: str, **options: Any) -> Any:
    """Open a diffusers pipeline of class `kind` from a folder, a single file or a hub id, weights in float32 on the CPU.

    What a folder's index says is left out is left out: diffusers alone would miss it.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(source)
    try:
        if path.is_file():
            return kind.from_single_file(source, dtype=torch.float32, **options)
        index: dict[str, Any] = kind.load_config(source, local_files_only=path.is_dir())
        options = {**{name: None for name, part in index.items() if part == [None, None]}, **options}
        return kind.from_pretrained(
            source, dtype=torch.float32, local_files_only=path.is_dir(), use_safetensors=True, **options
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        called = kind.__name__.removesuffix("Pipeline")
        raise UserError(
            f"the base {source} cannot be loaded ({reason}); check that it is a complete {called} model."
        ) from error


def check_whole(
    source: str, modules: Iterable[nn.Module], encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]
) -> None:
    """Refuse what the libraries fill in silence: weights that a file lacks, a tokenizer that is not there.

    `encoders` are text encoders under their folders' names, `tokenizers` those of the encoders that hear a fixed number of positions.
    """
    missing = [name for module in modules for name, weight in module.named_parameters() if weight.is_meta]
    missing += [name for name, encoder in encoders.items() if encoder is None]
    files = weight_files(source, list(encoders))
    for part, encoder in encoders.items() if not missing else ():
        names = {name for file in files if file.parent.name == part for name in tensor_names(file)}
        if names and len(names) < len(list(encoder.parameters())):
            missing.append(part)
    for part, tokenizer in tokenizers.items() if not missing else ():
        if tokenizer.model_max_length > encoders[part].config.max_position_embeddings:
            missing.append("tokenizer")
    if missing:
        raise UserError(f"the base {source} cannot be loaded ({missing[0]} is not whole); download it again.")


def tensor_names(file: Path) -> list[str]:
    """What a .safetensors file holds, without reading it."""
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def reload_part(kind: Any, source: str, name: str, module: Any, **options: Any) -> nn.Module:
    """Read one part (`module` is its class) of a pipeline of class `kind` again."""
    path = Path(source)
    if path.is_file():
        return getattr(kind.from_single_file(source, dtype=torch.float32, **options), name)
    return module.from_pretrained(
        source, subfolder=name, use_safetensors=True, local_files_only=path.is_dir(), dtype=torch.float32
    )


def weight_files(source: str, parts: Sequence[str]) -> list[Path]:
    """The weight files of a base's parts, and its scheduler's settings: what makes a base what it is. A hub id's lie in the hub's cache."""
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(source, local_files_only=True, allow_patterns=["*.safetensors", "*.json"]))
    weights = [file for part in parts for file in sorted((path / part).glob("*.safetensors"))]
    return [*weights, path / "scheduler" / "scheduler_config.json"]  # it says what the answers mean


Precision = Literal["fp32", "bf16", "fp16"]


def fingerprint(files: list[Path]) -> str:
    """Hash weights by name, size and 64 KiB at 32 places of each file: quick on 10 GB, different for any retrained base."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda f: (f.parent.name, f.name)):
        size = path.stat().st_size
        digest.update(f"{path.parent.name}/{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(32):
                file.seek(size * i // 32)
                digest.update(file.read(65536))
    return digest.hexdigest()[:16]
