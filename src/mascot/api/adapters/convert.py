"""`convert`: write an adapter in the format of another tool."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import is_finite
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.layer_kinds import ALPHA
from mascot.adapters.formats.layer_settings import Layers, read_own
from mascot.adapters.formats.registry import Architecture, architecture_of, stated_architecture, write_format
from mascot.adapters.formats.transformer_layers import notes_on_transformer
from mascot.adapters.formats.word_files import separate_words
from mascot.adapters.lora_keys import MAGNITUDE
from mascot.adapters.peft_folder import write_peft_folder
from mascot.adapters.token_rows import ENCODERS, RECORDS_KEY, read_records
from mascot.api.adapters.input_files import word_places
from mascot.api.adapters.publication.written_header import facts_of, header_metadata, read_thumbnail
from mascot.errors import UserError, list_some
from mascot.generation.loading import resolve_adapter
from mascot.methods.registry import LAYERS_AND_WORDS, WORDS, method_in
from mascot.storage.atomic_write import all_or_none, atomic_write, check_free
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
    words: tuple[Path, ...]
    """Files of their own of the words, where the format needs them."""
    notes: tuple[str, ...]
    """What some tool would make of the file other than what is in it; each one sentence."""


def convert(
    source: str | Path | Run,
    out: str | Path,
    *,
    to: Format,
    dtype: Dtype | None = None,
    private: bool = False,
    thumbnail: str | Path | None = None,
) -> Conversion:
    """Write an adapter, a run's or any tool's file, in another format.

    Tensors keep their values, and ranks and alphas of each layer their meaning. Words stay beside
    layers for kohya and comfyui. For diffusers and peft, each gets a file of its own beside `out`.

    Args:
        source: A run, its folder, `RUN@STEP`, an adapter file or a folder of peft.
        out: The file to write; for `peft` a folder, with a subfolder for each part.
        to: The format.
        dtype: The tensors' dtype; None keeps what they have.
        private: Leave everything out of headers but our own manifest.
        thumbnail: An image file for headers, or `run` for the last preview of the source's run.

    Raises:
        UserError: the source cannot be read, or is nothing that has other formats; or as
            `check_out`, `Target.of` and `write_target`.
    """
    path = check_out(Path(out), to)
    adapter, read = resolve_adapter(source)
    target = Target.of(to, read, dtype, private=private, thumbnail=thumbnail)
    return write_target(adapter, target, path)


def write_target(adapter: Adapter, target: Target, path: Path) -> Conversion:
    """Write an adapter at a path, and the words that need files of their own beside it.

    Raises:
        UserError: it holds nothing that has other formats; or as `check_out` and `Target.written`.
    """
    to = target.to
    architecture = architecture_of(adapter.tensors) or stated_architecture(adapter.tensors, adapter.metadata)
    (tensors, metadata), apart = separate_words(to, adapter.tensors, adapter.metadata)
    places = word_places(path, apart, alone=to not in {"diffusers", "peft"})
    words = {places[token]: content for token, content in apart.items()}
    layers, others = read_own(tensors, metadata)
    if not layers and not others and not words:
        raise UserError(f"{target.read} holds no low-rank layers and no words; give a LoRA, LoHa, LoKr or words.")
    main = replace(adapter, tensors=tensors, metadata=metadata)
    written = {path: target.written(main, path, architecture)} if tensors else {}
    for file, (own, record) in words.items():
        word = replace(adapter, tensors=own, metadata=record)
        written[file] = replace(target, to="diffusers" if to == "peft" else to).written(word, file, architecture)
    write_all(written, folder=path if to == "peft" else None)
    return Conversion(
        path=path if tensors else next(iter(words)),
        format=adapter.format or "mascot",
        to=to,
        layers=len(layers),
        words=tuple(words),
        notes=(
            *notes_on(to, main, layers),
            *notes_on_transformer(to, layers, architecture),
            *notes_on_words(to, path, adapter, words),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What files are written as."""

    to: str
    read: Path
    """The file that the adapter was read from."""
    dtype: Dtype | None
    private: bool
    thumbnail: str | None
    """A data URI."""

    @classmethod
    def of(cls, to: str, read: Path, dtype: Dtype | None, *, private: bool, thumbnail: str | Path | None) -> Target:
        """Read the image for the header.

        Raises:
            UserError: it cannot be used, or the format has no header; or as `read_thumbnail`.
        """
        if to == "peft" and (private or thumbnail is not None):
            option = "--private" if private else "--thumbnail"
            raise UserError(f"{option} is about the header of a file, and folders of peft have none; leave it out.")
        if private and thumbnail is not None:
            raise UserError("--private leaves out what --thumbnail adds; give one of them.")
        image = None if thumbnail is None else read_thumbnail(thumbnail, read)
        return cls(to=to, read=read, dtype=dtype, private=private, thumbnail=image)

    def written(self, adapter: Adapter, path: Path, architecture: Architecture | None) -> Adapter:
        """Turn an adapter in our form into one in another, with another dtype, for a path.

        Its manifest names the method that the tensors alone amount to. Its header describes it.
        `architecture` is that of all files: a word alone does not tell its own.

        Raises:
            UserError: the format has no name for a layer, or a value is too large for the dtype.
        """
        try:
            tensors, metadata = write_format(self.to, adapter.tensors, adapter.metadata, architecture)
        except UserError as error:
            raise UserError(f"{self.read} cannot be written for {self.to}: {error}") from error
        manifest = adapter.manifest
        if manifest is not None and manifest.method in {LAYERS_AND_WORDS, WORDS}:
            manifest = manifest.model_copy(update={"method": method_in(adapter.tensors)})
        facts = facts_of(adapter, self.read, architecture, path.stem)
        facts = replace(facts, thumbnail=self.thumbnail or facts.thumbnail)
        metadata = header_metadata(adapter, facts, metadata, to=self.to, private=self.private)
        cast_tensors = tensors if self.dtype is None else cast(tensors, self.dtype)
        return Adapter(tensors=cast_tensors, metadata=metadata, manifest=manifest)


def write_all(adapters: Mapping[Path, Adapter], folder: Path | None) -> None:
    """Write files by their paths; `folder` is the one that becomes a folder of peft.

    Raises:
        UserError: one cannot be written.
    """
    with all_or_none() as done:
        for path, adapter in reversed(list(adapters.items())):  # the words first: where the output is, all is
            if path == folder:
                with atomic_write(path) as temporary:
                    write_peft_folder(temporary, adapter.tensors, adapter.metadata)
            else:
                adapter.write(path)
            done.append(path)


def notes_on_words(to: str, path: Path, adapter: Adapter, words: Collection[Path]) -> Iterator[str]:
    """Say how other tools come by the words."""
    tokens = [record.token for record in read_records(adapter.metadata)] if RECORDS_KEY in adapter.metadata else []
    if words and to in {"diffusers", "peft"}:
        files = list_some(file.name for file in words)
        yield f"the words are in {files}; diffusers reads them with load_textual_inversion"
    elif words:
        yield f"each word has a file of its own, whose name is the word for other tools: {list_some(map(str, words))}"
    elif len(adapter.tensors) <= len(ENCODERS) and to in {"kohya", "comfyui"} and tokens not in ([], [path.stem]):
        yield f"A1111, Forge and ComfyUI call a word by its file's name, here {path.stem} and not {tokens[0]}"


def check_out(path: Path, to: str) -> Path:
    """Return a place, unless it is taken or has a name that other tools would not find.

    Raises:
        UserError: there is something, or the name of a file does not end in `.safetensors`.
    """
    check_free(path)
    if to == "peft" and path.suffix == SUFFIX:
        raise UserError(f"--to peft writes a folder, and {path} is named like a file; give {path.with_suffix('')}.")
    if to != "peft" and path.suffix != SUFFIX:
        raise UserError(f"other tools read files that end in {SUFFIX}; give {path}{SUFFIX}.")
    return path


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
            "of a DoRA in this form diffusers drops the magnitudes, ComfyUI divides them by norms of the base's "
            "weights, and A1111 by norms of inputs, so their images differ; give --to diffusers for diffusers"
        )
    if is_dora and to == "diffusers" and text:
        yield "diffusers misreads a DoRA of a text encoder; mascot and peft read it"
    if is_product and to != "peft":
        yield "diffusers reads no LoHa or LoKr; mascot, peft and, in kohya's form, ComfyUI, A1111 and LyCORIS do"
    if text and to == "kohya" and not is_product and not any(OUT_PROJECTION in name for name in text):
        yield "diffusers cannot read text encoder layers without out_proj in this form; give --to diffusers for it"
    is_unet = any(part.endswith("unet") for part, _ in layers)
    if to == "kohya" and is_unet and not is_product and any(len(own) > 1 for own in alphas.values()):
        yield "diffusers gives attention layers the commonest alpha of a file in this form; give --to diffusers for it"
    if text and to == "peft":
        yield "layers of text encoders have the names of transformers 5, which older versions do not find"
