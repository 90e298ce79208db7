"""Where each weight of a base lies in its files, so that it can be read and replaced alone.

A folder in the diffusers layout names weights as the modules do. A single file in an original
layout has other names, joined projections and swapped halves. diffusers' own converters tell where
each row goes: they are run on the numbers of the rows in place of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor

from mascot.errors import UserError
from mascot.models.base_files.architectures import denoiser_settings
from mascot.models.base_files.file_contents import (
    CLIP,
    FIRST_OF_TWO,
    OPEN_CLIP,
    SECOND_OF_TWO,
    UNET,
    Shapes,
    check_kind,
)
from mascot.storage.tensor_files import StoredTensors, open_tensors, read_header

PLAIN_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
VARIANT_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.(?P<variant>[a-z]\w*)(-\d+-of-\d+)?\.safetensors"
)
PARTS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts that an adapter can change, by folder name."""
TEXT_MODEL: Final = "text_model."
"""Part of some names of a text encoder's weights, which only some versions of a library write."""
TRANSFORMERS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "joint_blocks.": (
        "SD3Transformer2DModel",
        {
            "text_encoders.clip_l.transformer.": "text_encoder",
            "text_encoders.clip_g.transformer.": "text_encoder_2",
            "text_encoders.t5xxl.transformer.": "text_encoder_3",
        },
    ),
    "double_blocks.": (
        "FluxTransformer2DModel",
        {
            "text_encoders.clip_l.transformer.": "text_encoder",
            "text_encoders.t5xxl.transformer.": "text_encoder_2",
        },
    ),
}
"""What a transformer's blocks are called -> its class in diffusers, and names of other parts."""
BESIDE: Final = ("text_encoders.", "first_stage_model.", "vae.", "cond_stage_model.", "conditioner.")
"""Beginnings of the names of tensors beside a denoiser."""
ROW_BITS: Final = 32
"""Bits of a probe that hold the number of a row; those above hold the number of the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRun:
    """Rows of a stored tensor that follow each other."""

    key: str
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlace:
    """Where a weight lies: runs of rows in one file."""

    file: Path
    runs: tuple[RowRun, ...]
    shape: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFiles:
    """The files of a base, and where each weight that an adapter can change lies in them."""

    path: Path
    """A folder in the diffusers layout, or a single file."""
    places: Mapping[str, WeightPlace]
    """`<part>.<name>`, as the modules name it, without `text_model.` -> its place."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files with such weights."""
        return tuple(dict.fromkeys(place.file for place in self.places.values()))

    @property
    def parts(self) -> frozenset[str]:
        """The parts that are there."""
        return frozenset(name.partition(".")[0] for name in self.places)

    @contextmanager
    def opened(self) -> Generator[Callable[[str], Tensor]]:
        """Open the files while the context lasts; yields a function that reads one weight."""
        with ExitStack() as stack:
            stored = {file: stack.enter_context(open_tensors(file)) for file in self.files}
            yield lambda name: read_weight(self.places[name], stored[self.places[name].file])


def plain_name(part: str, name: str) -> str:
    """Name a weight `<part>.<name>`; those of text encoders without `text_model.`."""
    return f"{part}.{name.removeprefix(TEXT_MODEL) if part.startswith('text_encoder') else name}"


def read_weight(place: WeightPlace, stored: StoredTensors) -> Tensor:
    """Read a weight in the type that it is stored in."""
    rows = [stored[run.key][run.first : run.first + run.count] for run in place.runs]
    whole = rows[0] if len(rows) == 1 else torch.cat(rows)
    return (whole.T if place.transposed else whole).reshape(place.shape)


def put_weight(place: WeightPlace, key: str, stored: Tensor, weight: Tensor) -> None:
    """Write a weight's rows into the tensor `key` of its file, in place and in that one's type."""
    rows = weight.T if place.transposed else weight
    done = 0
    for run in place.runs:
        if run.key == key:
            part = stored[run.first : run.first + run.count]
            part.copy_(rows[done : done + run.count].reshape(part.shape))
        done += run.count


def variant_of(source: str, part: str) -> str | None:
    """Return the variant that a part's weights are in, such as `fp16`; None for plain weights.

    Plain weights count first where a folder holds both.
    """
    names = sorted(file.name for file in Path(source, part).glob("*.safetensors"))
    if any(PLAIN_WEIGHTS.fullmatch(name) for name in names):
        return None
    return next((found["variant"] for name in names if (found := VARIANT_WEIGHTS.fullmatch(name))), None)


def part_files(folder: Path, part: str) -> list[Path]:
    """List the files of a part's weights that are read, in order."""
    variant = variant_of(str(folder), part)
    files = sorted((folder / part).glob("*.safetensors"))
    if variant is None:
        return [file for file in files if PLAIN_WEIGHTS.fullmatch(file.name)]
    return [file for file in files if (f := VARIANT_WEIGHTS.fullmatch(file.name)) and f["variant"] == variant]


def locate_weights(path: Path) -> BaseFiles:
    """Find every weight of a base that an adapter can change, from the headers of its files alone.

    Raises:
        UserError: the files cannot be read, or hold no weights of a base.
    """
    places = folder_places(path) if path.is_dir() else file_places(path)
    if not places:
        raise UserError(
            f"{path} holds no weights of a base in .safetensors files; give a folder in the diffusers layout, or a "
            "whole checkpoint."
        )
    return BaseFiles(path=path, places=places)


def folder_places(folder: Path) -> dict[str, WeightPlace]:
    """Find the weights of a folder in the diffusers layout."""
    return {
        plain_name(part, key): WeightPlace(
            file=file,
            runs=(RowRun(key=key, first=0, count=entry.shape[0] if entry.shape else 1),),
            shape=tuple(entry.shape),
        )
        for part in PARTS
        for file in part_files(folder, part)
        for key, entry in read_header(file).entries.items()
        if entry.shape
    }


def file_places(path: Path) -> dict[str, WeightPlace]:
    """Find the weights of a single file in an original layout.

    Raises:
        UserError: the file is something else than a base.
    """
    shapes = {name: tuple(entry.shape) for name, entry in read_header(path).entries.items() if entry.shape}
    check_kind(path, shapes)
    keys = list(shapes)
    places: dict[str, WeightPlace] = {}
    for part, converted in converted_probes(shapes, probes_of(shapes)):
        for name, probe in converted.items():
            places[plain_name(part, name)] = place_of(path, keys, shapes, probe)
    return places


def probes_of(shapes: Shapes) -> dict[str, Tensor]:
    """Make a tensor of as many rows, and one column, for each stored one: it numbers the rows."""
    return {
        name: ((number << ROW_BITS) + torch.arange(shape[0])).view(-1, *(1 for _ in shape[1:]))
        for number, (name, shape) in enumerate(shapes.items())
    }


def place_of(file: Path, keys: list[str], shapes: Shapes, probe: Tensor) -> WeightPlace:
    """Read off a converted probe where the rows of a weight lie."""
    transposed = probe.ndim == 2 and probe.shape[0] == 1 and probe.shape[1] > 1
    numbers = probe.flatten()
    ends = (torch.nonzero(numbers.diff() != 1).flatten() + 1).tolist()
    runs = tuple(
        RowRun(
            key=keys[int(numbers[first]) >> ROW_BITS], first=int(numbers[first]) % (1 << ROW_BITS), count=end - first
        )
        for first, end in zip([0, *ends], [*ends, len(numbers)], strict=True)
    )
    rest = shapes[runs[0].key][1:]
    shape = (*rest, len(numbers)) if transposed else (len(numbers), *rest)
    return WeightPlace(file=file, runs=runs, shape=shape, transposed=transposed)


def converted_probes(shapes: Shapes, probes: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield each part of a single file with its tensors under the names of diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    if f"{UNET}input_blocks.0.0.weight" in probes:
        own = {name: probe for name, probe in probes.items() if name.startswith(UNET)}
        yield "unet", convert_ldm_unet_checkpoint(own, denoiser_settings(shapes, 64))
    yield from transformer_probes(probes)
    for prefix in (CLIP, FIRST_OF_TWO):
        if found := without_prefix(probes, prefix):
            yield "text_encoder", found
    for prefix, part in ((OPEN_CLIP, "text_encoder"), (SECOND_OF_TWO, "text_encoder_2")):
        if f"{prefix}positional_embedding" in probes:
            yield part, open_clip_probes(shapes, probes, prefix)


def transformer_probes(probes: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield a transformer's tensors, and those of text encoders that are in its file."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    own = {name.removeprefix(UNET): probe for name, probe in probes.items() if not name.startswith(BESIDE)}
    for blocks, (kind, encoders) in TRANSFORMERS.items():
        if any(name.startswith(blocks) for name in own):
            convert: Any = SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
            yield "transformer", convert(dict(own))
            for prefix, part in encoders.items():
                if found := without_prefix(probes, prefix):
                    yield part, found


def open_clip_probes(shapes: Shapes, probes: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """Return the tensors of an OpenCLIP text encoder, whose three projections are joined in one."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    width = shapes[f"{prefix}positional_embedding"][1]
    settings = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    own = {name: probe for name, probe in probes.items() if name.startswith(prefix)}
    converted: Mapping[str, Tensor] = convert_open_clip_checkpoint(settings, own, prefix=prefix)
    return converted


def without_prefix(probes: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors under a prefix, and remove it from their names."""
    return {name.removeprefix(prefix): probe for name, probe in probes.items() if name.startswith(prefix)}
