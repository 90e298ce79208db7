"""The files of a base in the diffusers layout: opening, checking, reading parts again, hashing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from mascot.errors import UserError, raise_unrelated
from mascot.models.base_files.file_contents import read_contents
from mascot.models.base_files.part_checks import check_settings, quiet_reading
from mascot.models.base_files.weight_places import variant_of
from mascot.storage.model_hub import only_local
from mascot.storage.tensor_files import read_header
from mascot.storage.untrusted_files import open_regular

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: Final[Mapping[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLayout:
    """The parts of one kind of diffusers pipeline, by the names of their folders."""

    pipeline_class: type[DiffusionPipeline]
    denoiser: str
    clip_encoders: tuple[str, ...] = ()
    """CLIP text encoders, which can be trained, in order."""
    frozen_encoders: tuple[str, ...] = ()
    """Text encoders that are never trained (a T5)."""
    optional_encoders: tuple[str, ...] = ()
    """Text encoders that a base may lack."""
    has_autoencoder: bool = True
    """Whether there is an autoencoder; otherwise the denoiser reads pixels."""
    schedulers: tuple[str, ...] = ("scheduler",)
    """Schedulers, which become fields of the stage with the same names."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Options for opening the pipeline; None for a part leaves it out."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts with weights, by folder name."""
        autoencoder = ("vae",) if self.has_autoencoder else ()
        return (self.denoiser, *autoencoder, *self.clip_encoders, *self.frozen_encoders)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """The parts of a base that can be dropped and read again."""

    layout: PipelineLayout
    source: str
    classes: Mapping[str, type[nn.Module]]
    """Part -> the class that reads it."""
    unused: dict[str, nn.Module]
    """Parts that were read and not yet handed out."""

    def read(self, name: str) -> nn.Module:
        """Return one part, in float32 on the CPU."""
        if name in self.unused:
            return self.unused.pop(name)
        return read_part(self.layout, self.source, name, self.classes[name])

    def reopen(self) -> DiffusionPipeline:
        """Read the whole pipeline again, in float32 on the CPU."""
        return open_pipeline(self.layout, self.source)


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a module to a device and dtype in place.

    The `to` of diffusers' models warns about layers that these models do not have.
    """
    return nn.Module.to(module, device, dtype)


def tokenizer_of(encoder: str) -> str:
    """Return the name of a text encoder's tokenizer: `tokenizer_2` for `text_encoder_2`."""
    return encoder.replace("text_encoder", "tokenizer")


def open_pipeline(layout: PipelineLayout, source: str) -> DiffusionPipeline:
    """Open a pipeline from a folder, a single file or a hub id, with weights in float32 on the CPU.

    Parts that a folder's index sets to null are left out: diffusers alone would report them
    missing.

    Raises:
        UserError: the pipeline cannot be read.
    """
    kind: Any = layout.pipeline_class  # diffusers declares from_single_file on some classes only
    options = dict(layout.options)
    try:
        with quiet_reading():
            if Path(source).is_file():
                return open_single_file(kind, Path(source), options)
            local = only_local(source)
            index: dict[str, object] = kind.load_config(source, local_files_only=local)
            check_settings(source, {name: part for name, part in index.items() if options.get(name, part) is not None})
            options = {**{name: None for name, part in index.items() if part == [None, None]}, **options}
            options |= {"variant": next(filter(None, (variant_of(source, part) for part in layout.parts)), None)}
            return kind.from_pretrained(
                source, dtype=torch.float32, local_files_only=local, use_safetensors=True, **options
            )
    except UserError:
        raise
    except Exception as error:
        raise_unrelated(error)
        reason = str(error).strip().splitlines()[0][:200].rstrip(".") if str(error).strip() else type(error).__name__
        name = kind.__name__.removesuffix("Pipeline")
        raise UserError(
            f"the base {source} cannot be loaded ({reason}); check that it is a complete {name} model."
        ) from error


def open_single_file(kind: Any, path: Path, options: Mapping[str, object]) -> DiffusionPipeline:
    """Read a pipeline from a single file; of some kinds the settings must come from the hub.

    Raises:
        UserError: the file lacks some tensors, or the hub's settings cannot be had.
    """
    from mascot.models.base_files.single_file import read_single_file

    contents = read_contents(path)
    if contents.comes_with_settings:
        return read_single_file(kind, contents, options)
    with TemporaryDirectory() as folder:
        link = Path(folder, f"{path.stem}.safetensors")  # diffusers knows the file's kind by this ending alone
        link.symlink_to(path.resolve())
        try:
            return kind.from_single_file(str(link), dtype=torch.float32, **options)
        except OSError as error:
            raise UserError(
                f"the base {path} cannot be loaded: the settings of its parts are not in the file, and could not be "
                "fetched from the model hub; give a folder in the diffusers layout."
            ) from error


def check_complete(
    source: str,
    modules: Iterable[nn.Module],
    encoders: Mapping[str, Any],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    """Refuse what the libraries fill silently: weights that a file lacks, a missing tokenizer.

    Args:
        source: The base, for the message and to find its files.
        modules: Denoiser and autoencoder.
        encoders: Text encoders by folder name; None for one that is missing.
        tokenizers: Tokenizers of the text encoders that read a fixed number of positions (CLIPs).

    Raises:
        UserError: something is missing.
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
        raise UserError(f"the base {source} cannot be loaded ({missing[0]} is incomplete); download it again.")


def tensor_names(file: Path) -> list[str]:
    """List the tensors of a .safetensors file, without reading them."""
    return list(read_header(file).entries)


def read_part(layout: PipelineLayout, source: str, name: str, part_class: Any) -> nn.Module:
    """Read one part of a pipeline again, in float32 on the CPU; `part_class` is its class."""
    if Path(source).is_file():
        from mascot.models.base_files.single_file import read_module

        contents = read_contents(Path(source))
        return (
            read_module(contents, name)
            if contents.comes_with_settings
            else getattr(open_pipeline(layout, source), name)
        )
    with quiet_reading():
        return part_class.from_pretrained(
            source,
            subfolder=name,
            use_safetensors=True,
            local_files_only=only_local(source),
            dtype=torch.float32,
            variant=variant_of(source, name),
        )


def weight_files(source: str, parts: Sequence[str]) -> list[Path]:
    """List the files that define a base: the weights of its parts, and its scheduler's settings.

    The files of a hub id lie in the hub's cache.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(source, local_files_only=True, allow_patterns=["*.safetensors", "*.json"]))
    weights = [file for part in parts for file in sorted((path / part).glob("*.safetensors"))]
    return [*weights, path / "scheduler" / "scheduler_config.json"]  # it defines what the denoiser predicts


def fingerprint(files: list[Path]) -> str:
    """Hash weight files by name, size and 64 KiB at 32 positions of each; 16 hexadecimal digits.

    This is quick on 10 GB, and different for any retrained base.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda f: (f.parent.name, f.name)):
        with open_regular(path, remedy="download the base again") as file:
            size = file.seek(0, SEEK_END)
            digest.update(f"{path.parent.name}/{path.name}:{size}".encode())
            for i in range(32):
                file.seek(size * i // 32)
                digest.update(file.read(65536))
    return digest.hexdigest()[:16]
