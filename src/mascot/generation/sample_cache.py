"""A gallery: pictures kept by what made them, and what was measured of them by what they show. Nothing is drawn or embedded twice.

Several processes may use one gallery: they wait for each other while drawing, and everything appears whole or not at all.

Shape suffixes: B pictures, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.protocols import Family
from mascot.storage.atomic_write import atomic_write
from mascot.storage.image_files import image_stem, open_image, write_image

KEY = 20
"""Hexadecimal digits of the names by which things are kept."""


class ImageEncoder(Protocol):
    """What turns pictures into vectors, and can say what it is."""

    def describe(self) -> str:
        """Say in one line all that decides an embedding."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures. Shape B x D."""
        ...


class SampleCache:
    """A folder of pictures (PNG, each with its settings) and of numbers about pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._drawing = FileLock(folder / "lock")
        self._measuring = FileLock(folder / "measured.lock")

    def generate(
        self, generator: Generator, requests: Sequence[ImageRequest], knobs: Knobs, made_by: str
    ) -> list[Path]:
        """Draw what is not there yet, and return all pictures' files in the order of the shots.

        `made_by` names the weights that draw (see `weights_name`).

        Raises:
            UserError: the pictures cannot be drawn (see `Generator.generate`) or written.
        """
        return list(self.images(generator, requests, knobs, made_by))

    def images(
        self, generator: Generator, requests: Sequence[ImageRequest], knobs: Knobs, made_by: str
    ) -> Iterator[Path]:
        """Draw like `generate`, and yield each picture's file as soon as it is there.

        A batch of which a picture is missing is drawn as a whole, so that drawing that was cut off goes on to the same bytes.
        """
        knobs = generator.with_defaults(knobs)
        height, width = generator.size(knobs)
        knobs = knobs.model_copy(update={"height": height, "width": width})
        base = f"{generator.family.name} {generator.family.identity}"
        paths = [self._place(request, knobs, made_by) for request in requests]
        if all(path.exists() for path in paths):
            yield from paths
            return
        _make(self.folder)
        with self._drawing:
            again = _unfinished(paths, generator.batch_size)
            generated = generator.generate([requests[index] for index in again], knobs)
            waiting = set(again)
            for index, path in enumerate(paths):
                if index in waiting:
                    image = next(generated)
                    if not path.exists():
                        write_image(image, path, settings_text(requests[index], knobs, (height, width), base, made_by))
                yield path

    def embed(self, encoder: ImageEncoder, paths: Sequence[Path]) -> Tensor:
        """Embed pictures by their files; each content goes through each encoder once. Shape B x D, float32, on the CPU.

        Raises:
            UserError: a picture cannot be read.
            ValueError: there are no pictures.
        """
        return self._embed(encoder, [_digest_of(path) for path in paths], lambda index: open_image(paths[index]))

    def embed_images(self, encoder: ImageEncoder, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures that have no file of their own, such as photos that were turned upright. Shape B x D, float32, on the CPU.

        Raises:
            ValueError: there are no pictures.
        """
        return self._embed(
            encoder, [_key(image.mode, image.size, image.tobytes()) for image in images], images.__getitem__
        )

    def distances(self, distance: Distance, paths: Sequence[Path]) -> list[float]:
        """Measure all pairs of pictures, in the order of `itertools.combinations`; the same pictures are measured once.

        Raises:
            UserError: a picture cannot be read.
        """
        if len(paths) < 2:
            return []
        key = _key(*(_digest_of(path) for path in paths))

        def measure(_: Sequence[int]) -> list[Tensor]:
            return [torch.tensor(distance.between([open_image(path) for path in paths]), dtype=torch.float64)]

        pairs = self._recall(f"distances: {distance.name}", [key], measure)[0].tolist()
        assert len(pairs) == sum(1 for _ in itertools.combinations(paths, 2))
        return pairs

    def _embed(self, encoder: ImageEncoder, keys: Sequence[str], load: Callable[[int], Image.Image]) -> Tensor:
        if not keys:
            raise ValueError("there is nothing to embed")

        def measure(missing: Sequence[int]) -> list[Tensor]:
            return list(encoder.embed([load(index) for index in missing]).float().cpu())

        return torch.stack(self._recall(f"embeddings: {encoder.describe()}", keys, measure))

    def _place(self, request: ImageRequest, knobs: Knobs, made_by: str) -> Path:
        key = _key(made_by, request.prompt, request.seed, json.dumps(knobs.model_dump(), sort_keys=True))
        return self.folder / f"{image_stem(request.prompt, request.seed)}_{key[:12]}.png"

    def _recall(
        self, kind: str, keys: Sequence[str], measure: Callable[[Sequence[int]], Sequence[Tensor]]
    ) -> list[Tensor]:
        """What is kept under the keys; what is missing is measured in one go, told by its places among the keys, and kept."""
        file = self.folder / "measured" / f"{_key(kind)}.safetensors"
        known = _read(file)
        missing = [index for key, index in _first_places(keys).items() if key not in known]
        if missing:
            found = {keys[index]: values for index, values in zip(missing, measure(missing), strict=True)}
            _make(self.folder)
            with self._measuring:  # another process may have kept others in the meantime
                known = {**_read(file), **{key: values.contiguous().clone() for key, values in found.items()}}
                with atomic_write(file) as temporary:
                    save_file(dict(sorted(known.items())), temporary, metadata={"of": kind})
        return [known[key] for key in keys]


def weights_name(family: Family, adapter: Path | None = None) -> str:
    """Name the weights that draw, in 20 hexadecimal digits: the base's identity, its precision, and the adapter file's bytes."""
    kinds = [str(next(stage.parts[stage.denoiser].parameters()).dtype) for stage in family.stages]
    return _key(family.identity, *kinds, *([] if adapter is None else [_digest_of(adapter)]))


def _unfinished(paths: Sequence[Path], batch_size: int) -> list[int]:
    """The places of all pictures in batches of which some picture is missing."""
    batches = [range(start, min(start + batch_size, len(paths))) for start in range(0, len(paths), batch_size)]
    return [index for batch in batches if not all(paths[index].exists() for index in batch) for index in batch]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}); free its name, or choose another place."
        ) from error


def _read(file: Path) -> Mapping[str, Tensor]:
    if not file.exists():
        return {}
    try:
        with safe_open(file, framework="pt") as kept:
            return {key: kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged; delete it, and what it held is measured again.") from error


def _first_places(keys: Sequence[str]) -> dict[str, int]:
    return {key: index for index, key in reversed(list(enumerate(keys)))}


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); put it back, or delete it and start again."
        ) from error


def _key(*facts: object) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        part = fact if isinstance(fact, bytes) else str(fact).encode(errors="surrogateescape")
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:KEY]


class Distance(Protocol):
    """A way to tell how different two pictures look."""

    @property
    def name(self) -> str:
        """Say in one line what measures: it belongs beside every table of its values."""
        ...

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs, in the order of `itertools.combinations`; 0 for equal pictures."""
        ...
