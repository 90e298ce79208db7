"""What families of diffusers pipelines share: opening one, refusing what is not whole, letting parts come and go, saving.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from mascot.models.autoencoder import AUTOENCODER, Autoencoder, PixelSpace
from mascot.models.pipeline_files import PipelineLayout, PipelineParts, cast, check_whole, open_pipeline, tokenizer_of
from mascot.models.token_embeddings import LearnedTokens
from mascot.protocols import Conditioning, Latents, Stage
from mascot.storage.atomic_write import atomic_write


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFamily:
    """One base, loaded."""

    name: str
    identity: str
    stages: tuple[Stage, ...]


@dataclass(kw_only=True)
class PipelineStage(ABC):
    """A stage of a diffusers pipeline: how it sees pictures, and text encoders that are loaded when first needed and can be let go."""

    source: str
    device: torch.device
    dtype: torch.dtype
    images: Autoencoder | PixelSpace
    load_text: Callable[[str], nn.Module]
    encoders: tuple[str, ...]
    """Text encoders that may learn, by the names of their folders, in order; a T5 is never one of them."""
    tokenizers: dict[str, Any] = field(default_factory=dict[str, Any])
    """Text encoder's name -> the base's own tokenizer."""
    reopen: Callable[[], Any] | None = None
    """Opens the whole pipeline again, float32 on the CPU; None for a stage made of loose modules, which cannot be saved."""
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    words: dict[str, LearnedTokens] = field(default_factory=dict[str, LearnedTokens])
    """Text encoder's name -> its words, each tied to the loaded encoder: both are let go together."""

    @classmethod
    def open(cls, layout: PipelineLayout, source: str, *, device: str, dtype: torch.dtype, **own: Any) -> Self:
        """Read a folder, a single-file checkpoint or a hub id; `own` are the fields that the family alone knows.

        Raises:
            UserError: the weights are missing, incomplete or unreadable.
        """
        pipeline, place = open_pipeline(layout.kind, source, **layout.options), torch.device(device)
        denoiser = getattr(pipeline, layout.denoiser)
        encoders: dict[str, Any] = {name: getattr(pipeline, name) for name in (*layout.clips, *layout.listeners)}
        encoders = {
            name: encoder for name, encoder in encoders.items() if encoder is not None or name not in layout.dispensable
        }
        autoencoders = {AUTOENCODER: getattr(pipeline, AUTOENCODER)} if layout.autoencoder else {}
        tokenizers = {name: getattr(pipeline, tokenizer_of(name)) for name in encoders}
        check_whole(
            source, [denoiser, *autoencoders.values()], encoders, {name: tokenizers[name] for name in layout.clips}
        )
        waiting = {**autoencoders, **encoders}
        parts = PipelineParts(
            layout=layout, source=source, classes={name: type(part) for name, part in waiting.items()}, waiting=waiting
        )
        fields: dict[str, Any] = {
            "source": source, "device": place, "dtype": dtype, "encoders": layout.clips, "tokenizers": tokenizers,
            layout.denoiser: cast(denoiser, place, dtype).eval().requires_grad_(requires_grad=False),
            **{name: getattr(pipeline, name) for name in layout.schedulers},
            "images": Autoencoder(load=lambda: parts.read(AUTOENCODER), device=place) if autoencoders else PixelSpace(),
            "load_text": parts.read, "reopen": parts.reopen,
        }  # fmt: skip
        return cls(**{**fields, **own})

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that may learn, under their folders' names; the denoiser first."""

    @property
    def vocabularies(self) -> Mapping[str, LearnedTokens]:
        """The words of each text encoder that may learn."""
        for name in self.encoders:
            if name not in self.words:
                self.words[name] = LearnedTokens(self.text_part(name), self.tokenizers[name])
        return {name: self.words[name] for name in self.encoders}

    def text_part(self, name: str) -> Any:
        """One text encoder by the name of its folder, loaded when needed."""
        if name not in self.loaded:
            self.loaded[name] = (
                self.load_text(name).to(self.device, self.dtype).eval().requires_grad_(requires_grad=False)
            )
        return self.loaded[name]

    def spelled(self, name: str, prompts: Sequence[str]) -> tuple[Any, list[str]]:
        """The tokenizer of a text encoder as it is now, and the prompts with learned words written out for it."""
        words = self.words.get(
            name
        )  # words that nobody asked for have learned nothing: the encoder need not be loaded to count
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
        return self.images.factor

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Pixels in -1..1 to what the denoiser sees."""
        return self.images.encode(pixels_BCHW)

    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """What the denoiser sees to pixels in 0..1."""
        return self.images.decode(x0_BCHW)

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """Nothing: the denoiser is told of no picture."""
        del x0_BCHW, generators
        return {}

    def release_encoders(self, *, text: bool) -> None:
        """Drop the autoencoder, and the text encoders on request; they are read from the base again when needed.

        Learned words and everything else that was done to a text encoder go with it.
        """
        self.images.release()
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
        with atomic_write(folder) as temporary:
            pipeline.save_pretrained(temporary)
