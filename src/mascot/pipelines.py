"""What families of diffusers pipelines share: opening one, refusing what is not whole, letting parts come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mascot.errors import UserError
from mascot.protocols import Latents

DTYPES: Final[Mapping[str, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(kw_only=True)
class Autoencoder:
    """Pixels to latents and back. Loaded when first needed, and let go between; in float32 on an accelerator too.

    In half precision the autoencoders of some bases turn pictures black.
    """

    load: Callable[[], nn.Module]
    device: torch.device
    loaded: Any = None

    @property
    def module(self) -> Any:
        """The autoencoder itself; diffusers annotates its answers as tuples, which they are not."""
        if self.loaded is None:
            self.loaded = self.load().to(self.device).eval().requires_grad_(requires_grad=False)
        return self.loaded

    @cached_property
    def factor(self) -> int:
        """Pixels to a latent, along a side."""
        return 2 ** (len(self.module.config["block_out_channels"]) - 1)

    @cached_property
    def scale_and_shift(self) -> tuple[float, float]:
        """What turns the autoencoder's latents into the denoiser's: (z - shift) x scale."""
        config: Any = self.module.config
        return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1, one picture at a time, to scaled latents."""
        scale, shift = self.scale_and_shift
        posteriors = [self.module.encode(pixels[None].to(self.device, torch.float32)).latent_dist for pixels in pixels_BCHW]
        mean = torch.cat([posterior.mean for posterior in posteriors])
        return Latents(mean_BCHW=(mean - shift) * scale, deviation_BCHW=torch.cat([posterior.std for posterior in posteriors]) * scale)

    @torch.no_grad()
    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Decode latents to pixels in 0..1, one picture at a time, so that the batch cannot change a picture."""
        scale, shift = self.scale_and_shift
        rows = [self.module.decode(x0[None].to(self.device).float() / scale + shift).sample for x0 in x0_BCHW]
        return (torch.cat(rows) / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Let it leave memory."""
        _ = self.factor
        self.loaded = None


@dataclass(frozen=True, slots=True)
class Pixels:
    """No autoencoder: the denoiser sees pixels in -1..1."""

    factor: int = 1

    @staticmethod
    def encode(pixels_BCHW: Tensor) -> Latents:
        """The pixels themselves."""
        return Latents(mean_BCHW=pixels_BCHW, deviation_BCHW=torch.zeros_like(pixels_BCHW))

    @staticmethod
    def decode(x0_BCHW: Tensor) -> Tensor:
        """Pixels in 0..1."""
        return (x0_BCHW / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Nothing to let go."""


@dataclass(kw_only=True)
class LoadedStage:
    """A stage of a diffusers pipeline: how it sees pictures, and text encoders that are loaded when first needed and can be let go."""

    source: str
    device: torch.device
    dtype: torch.dtype
    pictures: Autoencoder | Pixels
    load_text: Callable[[str], nn.Module]
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])

    def text_part(self, name: str) -> Any:
        """One text encoder by the name of its folder, loaded when needed."""
        if name not in self.loaded:
            self.loaded[name] = self.load_text(name).to(self.device, self.dtype).eval().requires_grad_(requires_grad=False)
        return self.loaded[name]

    @property
    def factor(self) -> int:
        """Pixels to a cell of what the denoiser sees, along a side."""
        return self.pictures.factor

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Pixels in -1..1 to what the denoiser sees."""
        return self.pictures.encode(pixels_BCHW)

    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """What the denoiser sees to pixels in 0..1."""
        return self.pictures.decode(x0_BCHW)

    def release_encoders(self, *, text: bool) -> None:
        """Drop the autoencoder, and the text encoders on request; they are read from the base again when needed."""
        self.pictures.release()
        if text:
            self.loaded.clear()


def open_pipeline(kind: Any, source: str, **options: Any) -> Any:
    """Open a diffusers pipeline of class `kind` from a folder, a single file or a hub id, weights in float32 on the CPU.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(source)
    try:
        if path.is_file():
            return kind.from_single_file(source, dtype=torch.float32, **options)
        return kind.from_pretrained(source, dtype=torch.float32, local_files_only=path.is_dir(), use_safetensors=True, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        called = kind.__name__.removesuffix("Pipeline")
        raise UserError(f"the base {source} cannot be loaded ({reason}); check that it is a complete {called} model.") from error


def check_whole(source: str, modules: Iterable[nn.Module], encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
    """Refuse what the libraries fill in silence: weights that a file lacks, a tokenizer that is not there.

    `encoders` are text encoders under their folders' names, `tokenizers` those of the encoders that hear a fixed number of positions.
    """
    missing = [name for module in modules for name, weight in module.named_parameters() if weight.is_meta]
    files = weight_files(source, list(encoders))
    for part, encoder in encoders.items():
        names = {name for file in files if file.parent.name == part for name in tensor_names(file)}
        if names and len(names) < len(list(encoder.parameters())):
            missing.append(part)
    for part, tokenizer in tokenizers.items():
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
    return module.from_pretrained(source, subfolder=name, use_safetensors=True, local_files_only=path.is_dir(), dtype=torch.float32)


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
