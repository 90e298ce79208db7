"""A cache of generated images, and of their embeddings and distances.

An image is stored under what made it: weights, prompt, seed and knobs. An embedding is stored under
the image's content. So nothing is generated or embedded twice. Several processes may share one
cache: they wait for each other while generating, and every file appears whole or not at all.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.generation.prompts.prompt_reading import Reading
from mascot.protocols import Family
from mascot.storage.atomic_write import atomic_write
from mascot.storage.image_files import SEAL, image_stem, open_image, read_sealed, warn_of_unsealed, write_image
from mascot.storage.tensor_files import read_tensors
from mascot.storage.untrusted_files import UnreadableFile, digest_of

logger = logging.getLogger(__name__)

KEY_DIGITS = 20
"""Hexadecimal digits of a cache key."""


class ImageEncoder(Protocol):
    """Turns images into vectors, and describes itself."""

    def describe(self) -> str:
        """Describe in one line everything that decides an embedding; it is part of cache keys."""
        ...

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed images. Shape B x D."""
        ...


class Distance(Protocol):
    """Measures how different two images look."""

    @property
    def name(self) -> str:
        """Name of the distance in one line; it stands beside its values and in cache keys."""
        ...

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs, in the order of `itertools.combinations`; 0 for equal images."""
        ...


class SampleCache:
    """A folder of images (PNG files with their settings) and of numbers about images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._generation_lock = FileLock(folder / "lock")
        self._measurement_lock = FileLock(folder / "measured.lock")

    def generate(
        self, generator: Generator, requests: Sequence[ImageRequest], knobs: Knobs, weights: str
    ) -> list[Path]:
        """Generate the images that are not cached; returns all files in the order of the requests.

        `weights` names the weights of base and adapter (see `weights_name`).

        Raises:
            UserError: the images cannot be generated (see `Generator.generate`) or written.
        """
        return list(self.images(generator, requests, knobs, weights))

    def images(
        self, generator: Generator, requests: Sequence[ImageRequest], knobs: Knobs, weights: str
    ) -> Iterator[Path]:
        """Do as `generate`, and yield each file as soon as it exists.

        A batch that lacks an image is generated as a whole, so that an interrupted call continues
        to the same bytes.

        Raises:
            UserError: see `generate`.
        """
        knobs = generator.with_defaults(knobs)
        height, width = generator.size(knobs)
        knobs = knobs.model_copy(update={"height": height, "width": width})
        base = f"{generator.family.name} {generator.family.identity}"
        readings = {request.prompt: generator.reading(request.prompt, knobs) for request in requests}
        paths = [self._path_of(request, knobs, weights, readings[request.prompt]) for request in requests]
        if all(read_sealed(path, (width, height)) for path in paths):
            yield from paths
            return
        _make_folder(self.folder)
        with self._generation_lock:
            whole = {path for path in paths if read_sealed(path, (width, height))}
            warn_of_unsealed(self.folder, set(paths) - whole)
            again = _unfinished(paths, whole, generator.batch_size)
            generated = generator.generate([requests[index] for index in again], knobs)
            waiting = set(again)
            for index, path in enumerate(paths):
                if index in waiting:
                    image = next(generated)
                    if path not in whole:
                        facts = readings[requests[index].prompt].facts
                        text = settings_text(requests[index], knobs, (height, width), base, weights, facts=facts)
                        write_image(image, path, text)
                        whole.add(path)
                yield path

    def embed(self, encoder: ImageEncoder, paths: Sequence[Path]) -> Tensor:
        """Embed image files. Shape B x D, float32, on the CPU.

        Each content goes through each encoder once.

        Raises:
            UserError: an image cannot be read.
            ValueError: there are no images.
        """
        return self._embed(encoder, [digest_of(path) for path in paths], lambda index: open_image(paths[index]))

    def embed_images(self, encoder: ImageEncoder, images: Sequence[Image.Image]) -> Tensor:
        """Embed images that have no file of their own. Shape B x D, float32, on the CPU.

        Photos that were turned upright are an example.

        Raises:
            ValueError: there are no images.
        """
        return self._embed(
            encoder, [_key(image.mode, image.size, image.tobytes()) for image in images], images.__getitem__
        )

    def distances(self, distance: Distance, paths: Sequence[Path]) -> list[float]:
        """Measure all pairs of images, in the order of `itertools.combinations`.

        The same images are measured once.

        Raises:
            UserError: an image cannot be read.
        """
        if len(paths) < 2:
            return []
        key = _key(*(digest_of(path) for path in paths))

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

    def _path_of(self, request: ImageRequest, knobs: Knobs, weights: str, reading: Reading) -> Path:
        key = _key(weights, request.prompt, request.seed, json.dumps(knobs.as_key(), sort_keys=True), *reading.key)
        return self.folder / f"{image_stem(request.prompt, request.seed)}_{key[:12]}.png"

    def _recall(
        self, kind: str, keys: Sequence[str], measure: Callable[[Sequence[int]], Sequence[Tensor]]
    ) -> list[Tensor]:
        """Return the tensors stored under the keys.

        Missing ones are measured in one call and stored. `measure` gets the indices of the missing
        keys.
        """
        file = self.folder / "measured" / f"{_key(kind)}.safetensors"
        known = _read_tensors(file, kind)
        missing = [index for key, index in _first_indices(keys).items() if key not in known]
        if missing:
            measured = {keys[index]: values for index, values in zip(missing, measure(missing), strict=True)}
            _make_folder(self.folder)
            with self._measurement_lock:  # another process may have stored others in the meantime
                known = {
                    **_read_tensors(file, kind, warn=False),
                    **{key: row.contiguous().clone() for key, row in measured.items()},
                }
                with atomic_write(file) as temporary:
                    save_file(dict(sorted(known.items())), temporary, metadata={"of": kind, SEAL: _seal_of(known)})
        return [known[key] for key in keys]


def weights_name(family: Family, adapter: Path | None = None) -> str:
    """Name the weights that generate, in 20 hexadecimal digits.

    The name is a hash of the base's identity, its precision, and the adapter file's bytes.

    Raises:
        UserError: the adapter file cannot be read.
    """
    kinds = [str(next(stage.parts[stage.denoiser].parameters()).dtype) for stage in family.stages]
    return _key(family.identity, *kinds, *([] if adapter is None else [digest_of(adapter)]))


def _unfinished(paths: Sequence[Path], whole: Collection[Path], batch_size: int) -> list[int]:
    """Return the indices of all images in batches that lack an image."""
    batches = [range(start, min(start + batch_size, len(paths))) for start in range(0, len(paths), batch_size)]
    return [index for batch in batches if not all(paths[index] in whole for index in batch) for index in batch]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}); free its name, or choose another folder."
        ) from error


def _read_tensors(file: Path, kind: str, *, warn: bool = True) -> Mapping[str, Tensor]:
    """Read what is measured of a kind; a file that is not just what was written holds nothing."""
    try:
        tensors, metadata = read_tensors(file)
    except UnreadableFile as error:
        tensors, metadata = {}, {}
        if error.missing:
            return {}
    if metadata.get("of") == kind and metadata.get(SEAL) == _seal_of(tensors):
        return tensors
    if warn:
        logger.warning("%s is damaged or of an older version; what it held is measured again.", file)
    return {}


def _seal_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors with their names, types and shapes."""
    facts = [(key, tensors[key].dtype, tuple(tensors[key].shape)) for key in sorted(tensors)]
    return _key(facts, *(tensors[key].contiguous().numpy().tobytes() for key in sorted(tensors)))


def _first_indices(keys: Sequence[str]) -> dict[str, int]:
    """Return each key's first index, the last key first."""
    return {key: index for index, key in reversed(list(enumerate(keys)))}


def _key(*facts: object) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        part = fact if isinstance(fact, bytes) else str(fact).encode(errors="surrogateescape")
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:KEY_DIGITS]
