"""The stage that families of diffusers pipelines share: opening a base, its text encoders, saving.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from transformers import PreTrainedTokenizerBase

from mascot.diffusion.prompt_chunks import Chunk
from mascot.errors import UserError
from mascot.models.autoencoder import AUTOENCODER, Autoencoder, PixelSpace
from mascot.models.base_files.file_contents import TEXT_PREFIX
from mascot.models.base_files.part_checks import check_finite, check_fit
from mascot.models.pipeline_files import (
    PipelineLayout,
    PipelineParts,
    cast,
    check_complete,
    open_pipeline,
    tokenizer_of,
)
from mascot.models.token_embeddings import LearnedTokens
from mascot.protocols import Conditioning, Latents, Stage
from mascot.storage.atomic_write import atomic_write
from mascot.storage.tensor_files import read_tensors

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFamily:
    """A loaded base model: implements `protocols.Family`."""

    name: str
    identity: str
    stages: tuple[Stage, ...]


@dataclass(kw_only=True)
class TextEncoders:
    """The text encoders of a stage, each loaded when first needed, and their tokenizers."""

    device: torch.device
    dtype: torch.dtype
    load_text_encoder: Callable[[str], nn.Module]
    encoders: tuple[str, ...]
    """Trainable text encoders by folder name, in order; a T5 is never one of them."""
    tokenizers: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict[str, PreTrainedTokenizerBase])
    """Text encoder's name -> the base's own tokenizer."""
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    """Text encoder's name -> the loaded module."""
    tokens: dict[str, LearnedTokens] = field(default_factory=dict[str, LearnedTokens])
    """Text encoder's name -> its tokens. They hold the loaded encoder, and are dropped with it."""

    @property
    def vocabularies(self) -> Mapping[str, LearnedTokens]:
        """The tokens of each trainable text encoder."""
        for name in self.encoders:
            if name not in self.tokens:
                self.tokens[name] = LearnedTokens(self.text_encoder(name), self.tokenizers[name])
        return {name: self.tokens[name] for name in self.encoders}

    def text_encoder(self, name: str) -> Any:
        """Return one text encoder by folder name, and load it when needed."""
        if name not in self.loaded:
            self.loaded[name] = (
                self.load_text_encoder(name).to(self.device, self.dtype).eval().requires_grad_(requires_grad=False)
            )
        return self.loaded[name]

    def prepare_prompts(self, name: str, prompts: Sequence[str]) -> tuple[PreTrainedTokenizerBase, list[str]]:
        """Return a text encoder's tokenizer, and the prompts with the added token rewritten.

        Without vocabularies no token was added, so the encoder need not be loaded to count tokens.
        """
        tokens = self.tokens.get(name)
        return (self.tokenizers[name], list(prompts)) if tokens is None else (tokens.tokenizer, tokens.rewrite(prompts))

    def token_ids(self, name: str, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Tokenize prompts for one text encoder, truncated or padded. Shape B x length.

        `length` is the tokenizer's own maximum when not given.
        """
        tokenizer, texts = self.prepare_prompts(name, prompts)
        length = tokenizer.model_max_length if length is None else length
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return ids.to(self.device)

    def truncations_in(self, prompt: str, lengths: Mapping[str, int | None]) -> dict[str, tuple[int, int, str]]:
        """Return what each of some text encoders leaves out of a prompt (see `Stage.truncations`).

        `lengths` maps their names to the tokens that they read, start and end included; None is the
        tokenizer's own maximum.
        """
        found: dict[str, tuple[int, int, str]] = {}
        for name, length in lengths.items():
            tokenizer, (text,) = self.prepare_prompts(name, [prompt])
            read = int(tokenizer.model_max_length if length is None else length)
            encoded: Any = tokenizer(text, return_offsets_mapping=True)
            if len(encoded.input_ids) > read:
                own = [at for at, number in enumerate(encoded.sequence_ids(0)) if number is not None]
                first = own[max(0, read - (len(encoded.input_ids) - len(own)))]
                found[name] = len(encoded.input_ids), read, text[encoded.offset_mapping[first][0] :].strip()
        return found

    def read_clip(self, name: str, prompts: Sequence[str]) -> Any:
        """Encode prompts with a CLIP text encoder, padded to full length.

        The output has the hidden states of every layer.
        """
        return self.text_encoder(name)(self.token_ids(name, prompts), output_hidden_states=True)

    def chunk_length(self, name: str) -> int:
        """Return the most tokens of a chunk of a CLIP text encoder, without start and end."""
        return int(self.tokenizers[name].model_max_length) - 2

    def token_groups(self, name: str, text: str) -> list[tuple[int, ...]]:
        """Tokenize a text for one text encoder; tokens of one added token stand together."""
        tokenizer, (text,) = self.prepare_prompts(name, [text])
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        added = {one[0]: one for one in (self.tokens[name].added_ids if name in self.tokens else ())}
        groups: list[tuple[int, ...]] = []
        while ids:
            group = added.get(ids[0], ())
            count = len(group) if group and tuple(ids[: len(group)]) == group else 1
            groups.append(tuple(ids[:count]))
            ids = ids[count:]
        return groups

    def read_chunks(self, name: str, chunks: Sequence[Chunk]) -> list[Any]:
        """Encode the chunks of one prompt, each by itself, as `read_clip` does, without weights."""
        tokenizer: Any = self.prepare_prompts(name, [])[0]
        outputs: list[Any] = []
        for chunk in chunks:
            ids = [tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id]
            ids += [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(ids))
            ids_1N = torch.tensor([ids], device=self.device)
            outputs.append(self.text_encoder(name)(ids_1N, output_hidden_states=True))
        return outputs

    @torch.no_grad()
    def read_t5(self, name: str, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Encode prompts with a frozen T5, truncated or padded to `length`. Shape B x N x D.

        `length` is the tokenizer's own maximum when not given.
        """
        return self.text_encoder(name)(self.token_ids(name, prompts, length)).last_hidden_state


@dataclass(kw_only=True)
class PipelineStage(TextEncoders, ABC):
    """A stage of a diffusers pipeline: image codec, text encoders, and the subclass's denoiser."""

    source: str
    image_codec: Autoencoder | PixelSpace
    reopen: Callable[[], DiffusionPipeline] | None = None
    """Reads the whole pipeline again, in float32 on the CPU.

    None for a stage made of single modules, which cannot be saved.
    """

    @classmethod
    def open(cls, layout: PipelineLayout, source: str, *, device: str, dtype: torch.dtype, **own: Any) -> Self:
        """Open a folder, a single-file checkpoint or a hub id; `own` are fields of the subclass.

        Raises:
            UserError: the weights are missing, incomplete or unreadable.
        """
        return cls(**{**read_stage(layout, source, torch.device(device), dtype), **own})

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that can be trained, by folder name; the denoiser first."""

    def dtype_of(self, denoiser: nn.Module) -> torch.dtype:
        """Return the dtype of a denoiser's inputs.

        It is that of the weights, which is float32 where all of them are trained. Where they are
        quantized it is the stage's dtype.
        """
        first = next(denoiser.parameters()).dtype
        return first if first.is_floating_point else self.dtype

    @property
    def factor(self) -> int:
        """Pixels per cell of the denoiser's input, along a side."""
        return self.image_codec.factor

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1 to latents."""
        return self.image_codec.encode(pixels_BCHW)

    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Decode latents to pixels in 0..1."""
        return self.image_codec.decode(x0_BCHW)

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """Return nothing: this denoiser is not conditioned on an image."""
        del x0_BCHW, generators
        return {}

    def release_encoders(self, *, text: bool) -> None:
        """Drop the autoencoder, and with `text` the text encoders; they are read again when needed.

        Added tokens, and everything else that was done to a text encoder, go with it.
        """
        self.image_codec.release()
        if text:
            self.loaded.clear()
            self.tokens.clear()

    def save(self, folder: Path) -> None:
        """Write the stage's whole pipeline with its current weights, in the diffusers layout.

        Denoiser and text encoders are written in the stage's dtype. The autoencoder is the base's
        own, in float32, as it is used. Parts must be free of wrappers and adapters. A failure
        leaves nothing behind.

        Raises:
            UserError: the folder cannot be written, or is not empty.
        """
        assert self.reopen is not None, "a stage made of single modules has no pipeline to save"
        pipeline, parts = self.reopen(), self.parts
        for name in {*parts, *self.tokenizers}:
            own = cast(getattr(pipeline, name), torch.device("cpu"), self.dtype)
            if name in parts:  # copied, so that trained weights are neither moved nor rounded here
                own.load_state_dict(parts[name].state_dict())
        with atomic_write(folder) as temporary:
            pipeline.save_pretrained(temporary)
            for name in self.encoders:
                name_as_other_tools(temporary / name / "model.safetensors")


def name_as_other_tools(path: Path) -> None:
    """Give the tensors of a CLIP text encoder the prefix that other tools look for.

    transformers 5 writes those of an encoder without a projection without it, and reads both.
    """
    tensors, metadata = read_tensors(path)
    if not any(name.startswith(TEXT_PREFIX) for name in tensors):
        save_file({f"{TEXT_PREFIX}{name}": tensor for name, tensor in tensors.items()}, path, metadata=metadata)


def read_stage(layout: PipelineLayout, source: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Read a base and return the fields that every `PipelineStage` of its layout has.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    pipeline: Any = open_pipeline(layout, source)
    denoiser = getattr(pipeline, layout.denoiser)
    encoders: dict[str, Any] = {
        name: getattr(pipeline, name) for name in (*layout.clip_encoders, *layout.frozen_encoders)
    }
    encoders = {
        name: encoder
        for name, encoder in encoders.items()
        if encoder is not None or name not in layout.optional_encoders
    }
    autoencoders = {AUTOENCODER: getattr(pipeline, AUTOENCODER)} if layout.has_autoencoder else {}
    tokenizers = {name: getattr(pipeline, tokenizer_of(name)) for name in encoders}
    of_clips = {name: tokenizers[name] for name in layout.clip_encoders}
    check_complete(source, [denoiser, *autoencoders.values()], encoders, of_clips)
    if layout.denoiser == "unet" and autoencoders and not layout.frozen_encoders:
        check_fit(source, denoiser, autoencoders[AUTOENCODER], encoders, of_clips)
    unused: dict[str, nn.Module] = {**autoencoders, **encoders}
    check_finite(f"the base {source}", {layout.denoiser: denoiser, **unused})
    classes = {name: type(part) for name, part in unused.items()}
    parts = PipelineParts(layout=layout, source=source, classes=classes, unused=unused)
    codec = Autoencoder(load=lambda: parts.read(AUTOENCODER), device=device) if autoencoders else PixelSpace()
    return {
        "source": source,
        "device": device,
        "dtype": dtype,
        "encoders": layout.clip_encoders,
        "tokenizers": tokenizers,
        layout.denoiser: cast(denoiser, device, dtype).eval().requires_grad_(requires_grad=False),
        **{name: getattr(pipeline, name) for name in layout.schedulers},
        "image_codec": codec,
        "load_text_encoder": parts.read,
        "reopen": parts.reopen,
    }


def check_clip_skip(stage: TextEncoders, skipped: int, last: int = 1) -> None:
    """Refuse to skip more layers than a stage's CLIP text encoders have.

    Args:
        stage: The stage.
        skipped: How many layers are skipped.
        last: The layer that is used without clip skip, counted from the end.

    Raises:
        UserError: a text encoder has fewer layers.
    """
    for name in stage.encoders if skipped else ():
        spare = int(stage.text_encoder(name).config.num_hidden_layers) + 1 - last
        if skipped > spare:
            raise UserError(f"clip_skip = {skipped}: {name} can spare {spare} of its last layers; skip no more.")
