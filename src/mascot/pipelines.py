"""What families of diffusers pipelines share: opening one, refusing what is not whole, letting parts come and go, saving.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import safe_open
from torch import Generator, Tensor, nn

from mascot.errors import UserError
from mascot.protocols import Conditioning, Latents, Stage
from mascot.storage.atomic_write import replacing
from mascot.vocabulary import Words

AUTOENCODER: Final = "vae"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
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
class Parts:
    """The parts of a base that come and go: each is handed out as it was first read, and later read again."""

    layout: Layout
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFamily:
    """One base, loaded."""

    name: str
    identity: str
    stages: tuple[Stage, ...]


@dataclass(kw_only=True)
class LoadedStage(ABC):
    """A stage of a diffusers pipeline: how it sees pictures, and text encoders that are loaded when first needed and can be let go."""

    source: str
    device: torch.device
    dtype: torch.dtype
    pictures: Autoencoder | Pixels
    load_text: Callable[[str], nn.Module]
    encoders: tuple[str, ...]
    """Text encoders that may learn, by the names of their folders, in order; a T5 is never one of them."""
    tokenizers: dict[str, Any] = field(default_factory=dict[str, Any])
    """Text encoder's name -> the base's own tokenizer."""
    reopen: Callable[[], Any] | None = None
    """Opens the whole pipeline again, float32 on the CPU; None for a stage made of loose modules, which cannot be saved."""
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    words: dict[str, Words] = field(default_factory=dict[str, Words])
    """Text encoder's name -> its words, each tied to the loaded encoder: both are let go together."""

    @classmethod
    def open(cls, layout: Layout, source: str, *, device: str, dtype: torch.dtype, **own: Any) -> Self:
        """Read a folder, a single-file checkpoint or a hub id; `own` are the fields that the family alone knows.

        Raises:
            UserError: the weights are missing, incomplete or unreadable.
        """
        pipeline, place = open_pipeline(layout.kind, source, **layout.options), torch.device(device)
        denoiser = getattr(pipeline, layout.denoiser)
        encoders: dict[str, Any] = {name: getattr(pipeline, name) for name in (*layout.clips, *layout.listeners)}
        encoders = {name: encoder for name, encoder in encoders.items() if encoder is not None or name not in layout.dispensable}
        autoencoders = {AUTOENCODER: getattr(pipeline, AUTOENCODER)} if layout.autoencoder else {}
        tokenizers = {name: getattr(pipeline, tokenizer_of(name)) for name in encoders}
        check_whole(source, [denoiser, *autoencoders.values()], encoders, {name: tokenizers[name] for name in layout.clips})
        waiting = {**autoencoders, **encoders}
        parts = Parts(layout=layout, source=source, classes={name: type(part) for name, part in waiting.items()}, waiting=waiting)
        fields: dict[str, Any] = {
            "source": source, "device": place, "dtype": dtype, "encoders": layout.clips, "tokenizers": tokenizers,
            layout.denoiser: cast(denoiser, place, dtype).eval().requires_grad_(requires_grad=False),
            **{name: getattr(pipeline, name) for name in layout.schedulers},
            "pictures": Autoencoder(load=lambda: parts.read(AUTOENCODER), device=place) if autoencoders else Pixels(),
            "load_text": parts.read, "reopen": parts.reopen,
        }  # fmt: skip
        return cls(**{**fields, **own})

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that may learn, under their folders' names; the denoiser first."""

    @property
    def vocabularies(self) -> Mapping[str, Words]:
        """The words of each text encoder that may learn."""
        for name in self.encoders:
            if name not in self.words:
                self.words[name] = Words(self.text_part(name), self.tokenizers[name])
        return {name: self.words[name] for name in self.encoders}

    def text_part(self, name: str) -> Any:
        """One text encoder by the name of its folder, loaded when needed."""
        if name not in self.loaded:
            self.loaded[name] = self.load_text(name).to(self.device, self.dtype).eval().requires_grad_(requires_grad=False)
        return self.loaded[name]

    def spelled(self, name: str, prompts: Sequence[str]) -> tuple[Any, list[str]]:
        """The tokenizer of a text encoder as it is now, and the prompts with learned words written out for it."""
        words = self.words.get(name)  # words that nobody asked for have learned nothing: the encoder need not be loaded to count
        return (self.tokenizers[name], list(prompts)) if words is None else (words.tokenizer, words.rewrite(prompts))

    def token_ids(self, name: str, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """What one text encoder is given: ids, cut or padded to `length` (its tokenizer's own when not given). Shape B x length."""
        tokenizer, texts = self.spelled(name, prompts)
        length = tokenizer.model_max_length if length is None else length
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return ids.to(self.device)

    def count_tokens(self, name: str, prompt: str, length: int | None = None) -> tuple[int, int]:
        """Tokens that a prompt takes in one text encoder, with its ends, and how many of them it hears."""
        tokenizer, texts = self.spelled(name, [prompt])
        return len(tokenizer(texts[0]).input_ids), int(tokenizer.model_max_length if length is None else length)

    def read_clip(self, name: str, prompts: Sequence[str]) -> Any:
        """What a CLIP text encoder makes of prompts, padded to full length; with the states between its layers."""
        return self.text_part(name)(self.token_ids(name, prompts), output_hidden_states=True)

    @torch.no_grad()
    def read_t5(self, name: str, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """B x N x D: what a frozen T5 makes of prompts, cut or padded to `length` (its tokenizer's own when not given)."""
        return self.text_part(name)(self.token_ids(name, prompts, length)).last_hidden_state

    def dtype_of(self, denoiser: nn.Module) -> torch.dtype:
        """What a denoiser's inputs must be: its weights' dtype, float32 where they learn in full; the stage's where they are quantised."""
        first = next(denoiser.parameters()).dtype
        return first if first.is_floating_point else self.dtype

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

    def see(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """Nothing: the denoiser is told of no picture."""
        del x0_BCHW, generators
        return {}

    def release_encoders(self, *, text: bool) -> None:
        """Drop the autoencoder, and the text encoders on request; they are read from the base again when needed.

        Learned words and everything else that was done to a text encoder go with it.
        """
        self.pictures.release()
        if text:
            self.loaded.clear()
            self.words.clear()

    def save(self, folder: Path) -> None:
        """Write the stage's whole pipeline as it is now, in the diffusers layout; nothing is left of it where that fails.

        Denoiser and text encoders are written in the stage's dtype. The autoencoder is the base's own, in float32, as it is used. Parts
        must be free of wrappers and adapters.

        Raises:
            UserError: the folder cannot be written, or has something in it already.
        """
        assert self.reopen is not None, "a stage made of loose modules has no pipeline to save"
        pipeline, parts = self.reopen(), self.parts
        for name in {*parts, *self.tokenizers}:
            own = cast(getattr(pipeline, name), torch.device("cpu"), self.dtype)
            if name in parts:  # copied, so that what learns is neither moved nor rounded here
                own.load_state_dict(parts[name].state_dict())
        with replacing(folder) as temporary:
            pipeline.save_pretrained(temporary)


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
