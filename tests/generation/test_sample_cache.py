"""Laws of the sample cache.

Nothing is generated or measured twice, an interrupted call continues to the same bytes, and each
image names its settings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mascot.errors import UserError
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_reading import Reading
from mascot.generation.sample_cache import SampleCache
from mascot.storage.image_files import image_stem, open_image, read_png, save_png, write_image

REQUESTS = [ImageRequest(f"a sks dog {number}", number) for number in range(7)]
KNOBS = Knobs(steps=1)


@dataclass
class FakeGenerator:
    """Generates at once; as with a real base, each image depends on the others in its batch."""

    batch_size: int = 3
    requested: list[ImageRequest] = field(default_factory=list[ImageRequest])
    family: Any = field(default_factory=lambda: SimpleNamespace(name="paint", identity="0123"))

    def with_defaults(self, knobs: Knobs) -> Knobs:
        """Name the solver."""
        return knobs.model_copy(update={"solver": knobs.solver or "ddim"})

    def size(self, knobs: Knobs) -> tuple[int, int]:
        """Eight pixels by default."""
        return knobs.height or 8, knobs.width or 8

    def reading(self, prompt: str, knobs: Knobs) -> Reading:
        """Brackets are weights; every other prompt is read as letters."""
        del knobs
        return Reading(weighted="(" in prompt)

    def generate(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        """Generate in batches."""
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            for request in batch:
                self.requested.append(request)
                yield Image.new(
                    "RGB", self.size(knobs)[::-1], (request.seed, sum(other.seed for other in batch), knobs.steps)
                )


@dataclass
class FakeEncoder:
    """An encoder and a distance that count the images that they read."""

    name: str = "encoder"
    count: int = 0

    def describe(self) -> str:
        """Its name."""
        return self.name

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """The first pixel."""
        self.count += len(images)
        return torch.tensor([image.getpixel((0, 0)) for image in images], dtype=torch.float32)

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """A distance for each pair."""
        self.count += len(images)
        count = len(images)
        return [0.5 + number for number in range(count * (count - 1) // 2)]


def generate(
    folder: Path,
    generator: FakeGenerator,
    requests: Sequence[ImageRequest] = REQUESTS,
    knobs: Knobs = KNOBS,
    weights: str = "weights",
) -> list[Path]:
    return SampleCache(folder).generate(generator, requests, knobs, weights)  # pyright: ignore[reportArgumentType]


def test_a_cached_image_is_not_generated_again(tmp_path: Path) -> None:
    generator = FakeGenerator()
    first = generate(tmp_path, generator)
    before = [path.read_bytes() for path in first]
    assert generate(tmp_path, generator) == first
    assert (generator.requested, [path.read_bytes() for path in first]) == (REQUESTS, before)


def test_images_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    requests = [*REQUESTS[::-1], REQUESTS[3]]
    reds = [open_image(path).getpixel((0, 0))[0] for path in generate(tmp_path, FakeGenerator(), requests)]  # pyright: ignore[reportIndexIssue,reportOptionalSubscript]
    assert reds == [request.seed for request in requests]


@pytest.mark.parametrize("kept", range(len(REQUESTS)))
def test_an_interrupted_call_continues_to_the_same_bytes(tmp_path: Path, kept: int) -> None:
    """Only missing images are written, and only batches with a missing image are generated."""
    whole = [path.read_bytes() for path in generate(tmp_path / "whole", FakeGenerator())]
    images = SampleCache(tmp_path / "cut").images(FakeGenerator(), REQUESTS, KNOBS, "weights")  # pyright: ignore[reportArgumentType]
    paths = [next(images) for _ in range(kept)]
    images.close()  # pyright: ignore[reportAttributeAccessIssue]
    times = [path.stat().st_mtime_ns for path in paths]
    generator = FakeGenerator()
    again = generate(tmp_path / "cut", generator)
    assert [path.read_bytes() for path in again] == whole
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert generator.requested == REQUESTS[kept // generator.batch_size * generator.batch_size :]


@pytest.mark.parametrize(
    "other",
    [
        {"requests": [ImageRequest("a sks dog 0", 1)]},
        {"requests": [ImageRequest("a SKS dog 0", 0)]},
        {"knobs": Knobs(steps=2)},
        {"knobs": Knobs(steps=1, width=16)},
        {"knobs": Knobs(steps=1, solver="euler")},
        {"weights": "other weights"},
    ],
    ids=str,
)
def test_every_setting_of_an_image_is_part_of_its_key(tmp_path: Path, other: dict[str, Any]) -> None:
    one = {"requests": REQUESTS[:1], "knobs": KNOBS, "weights": "weights"}
    assert generate(tmp_path, FakeGenerator(), **one) != generate(tmp_path, FakeGenerator(), **(one | other))


def test_a_default_and_its_explicit_value_give_one_image(tmp_path: Path) -> None:
    """This holds for the size and the solver."""
    named = Knobs(steps=1, solver="ddim", width=8, height=8)
    assert generate(tmp_path, FakeGenerator(), REQUESTS[:1], KNOBS) == generate(
        tmp_path, FakeGenerator(), REQUESTS[:1], named
    )


def test_an_image_names_its_settings(tmp_path: Path) -> None:
    (path,) = generate(tmp_path, FakeGenerator(), REQUESTS[2:3])
    with Image.open(path) as image:
        text = str(image.info["parameters"])
    assert text.startswith("a sks dog 2\n")
    for fact in ("Seed: 2", "Steps: 1", "Sampler: ddim", "Size: 8x8", "Model: paint 0123", "Adapter: weights"):
        assert fact in text
    assert path.name.startswith("a-sks-dog-2_2_")


def test_two_processes_generate_no_image_twice(tmp_path: Path) -> None:
    """The second comes while the first works, waits, and has nothing left to generate."""
    started, go = Event(), Event()

    class Slow(FakeGenerator):
        def generate(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
            for image in super().generate(requests, knobs):
                started.set()
                assert go.wait(30)
                yield image

    first, second = Slow(), FakeGenerator()
    threads = [Thread(target=generate, args=(tmp_path, generator)) for generator in (first, second)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    assert second.requested == []
    go.set()
    for thread in threads:
        thread.join()
    assert (first.requested, second.requested) == (REQUESTS, [])


def test_each_content_goes_through_each_encoder_once(tmp_path: Path) -> None:
    paths = generate(tmp_path, FakeGenerator())
    encoder, other = FakeEncoder(), FakeEncoder("another encoder")
    rows = SampleCache(tmp_path).embed(encoder, [*paths, paths[0]])
    assert torch.equal(rows, FakeEncoder().embed([open_image(path) for path in [*paths, paths[0]]]))
    assert torch.equal(SampleCache(tmp_path).embed(encoder, paths[::-1]), rows[:-1].flip(0))
    assert encoder.count == len(paths)
    SampleCache(tmp_path).embed(other, paths[:2])
    assert other.count == 2


def test_another_content_under_the_same_name_is_embedded_again(tmp_path: Path) -> None:
    (path,) = generate(tmp_path, FakeGenerator(), REQUESTS[:1])
    encoder = FakeEncoder()
    SampleCache(tmp_path).embed(encoder, [path])
    Image.new("RGB", (8, 8), (9, 8, 7)).save(path)
    assert SampleCache(tmp_path).embed(encoder, [path]).tolist() == [[9, 8, 7]]


def test_images_without_a_file_are_embedded_once(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    images = [Image.new("RGB", size, "red") for size in ((8, 4), (4, 8), (8, 4))]
    for _ in range(2):
        assert SampleCache(tmp_path).embed_images(encoder, images).tolist() == [[255, 0, 0]] * 3
    assert encoder.count == 2  # as large and as red, but not of one shape


def test_distances_are_cached_by_images_and_by_distance(tmp_path: Path) -> None:
    paths = generate(tmp_path, FakeGenerator())
    encoder = FakeEncoder()
    assert (
        SampleCache(tmp_path).distances(encoder, paths[:3])
        == SampleCache(tmp_path).distances(encoder, paths[:3])
        == [0.5, 1.5, 2.5]
    )
    assert encoder.count == 3
    SampleCache(tmp_path).distances(encoder, paths[1:3])
    SampleCache(tmp_path).distances(FakeEncoder("another"), paths[:3])
    assert encoder.count == 5
    assert SampleCache(tmp_path).distances(encoder, paths[:1]) == []


def test_nothing_cannot_be_embedded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        SampleCache(tmp_path).embed(FakeEncoder(), [])


def cut_short(path: Path) -> None:
    """Half a file."""
    path.write_bytes(path.read_bytes()[:60])


def black(path: Path) -> None:
    """A black image of the same size."""
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def jpeg(path: Path) -> None:
    """The same image in another format."""
    open_image(path).save(path, format="JPEG")


def enlarged(path: Path) -> None:
    """Another size."""
    write_image(open_image(path).resize((16, 16)), path, "")


def exchanged(path: Path) -> None:
    """Another image of the cache."""
    path.write_bytes(next(other for other in sorted(path.parent.glob("*.png")) if other != path).read_bytes())


def pipe(path: Path) -> None:
    """A named pipe."""
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to what never ends."""
    path.unlink()
    path.symlink_to("/dev/zero")


def flipped(path: Path) -> None:
    """One bit of the pixels flipped, with correct checksums."""
    image = open_image(path)
    _, texts = read_png(path)
    image.putpixel((3, 3), (image.getpixel((3, 3))[0] ^ 1, 0, 0))  # pyright: ignore[reportIndexIssue,reportOptionalSubscript,reportOperatorIssue]
    save_png(image, path, texts)


AGAIN = "1 cached image(s) are damaged, exchanged or of an older version, and are generated again."


@pytest.mark.parametrize("damage", [cut_short, black, jpeg, enlarged, exchanged, pipe, endless, flipped, Path.unlink])
def test_a_damaged_image_is_generated_again_to_the_same_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    paths = generate(tmp_path, FakeGenerator())
    whole = [path.read_bytes() for path in paths]
    damage(paths[4])
    generator = FakeGenerator()
    assert [path.read_bytes() for path in generate(tmp_path, generator)] == whole
    assert generator.requested == REQUESTS[3:6]
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == ([] if damage is Path.unlink else [AGAIN])
    caplog.clear()
    generate(tmp_path, generator)
    assert caplog.records == []


def flip_last_byte(path: Path) -> None:
    """A flipped bit in the numbers."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_kind(path: Path) -> None:
    """The file of another encoder."""
    path.write_bytes(next(other for other in path.parent.glob("*.safetensors") if other != path).read_bytes())


@pytest.mark.parametrize("damage", [cut_short, flip_last_byte, of_another_kind, pipe, endless])
def test_damaged_measurements_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    paths = generate(tmp_path, FakeGenerator())
    rows = SampleCache(tmp_path).embed(FakeEncoder(), paths)
    (kept,) = (tmp_path / "measured").glob("*.safetensors")
    SampleCache(tmp_path).embed(FakeEncoder("another"), paths)
    damage(kept)
    encoder = FakeEncoder()
    for _ in range(2):
        assert torch.equal(SampleCache(tmp_path).embed(encoder, paths), rows)
        assert encoder.count == len(paths)
    (record,) = caplog.records
    assert record.getMessage() == f"{kept} is damaged or of an older version; what it held is measured again."


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (path,) = generate(tmp_path, FakeGenerator(), REQUESTS[:1])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{path.name} cannot be read .*; delete it"):
        SampleCache(tmp_path).embed(FakeEncoder(), [path])
    path.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(it does not exist"):
        SampleCache(tmp_path).embed(FakeEncoder(), [path])


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match="taken cannot be made"):
        generate(tmp_path / "taken", FakeGenerator())


def test_any_prompt_becomes_a_file_name() -> None:
    assert image_stem("A sks/Dog, wearing a HAT!", 3) == "a-sks-dog-wearing-a-hat_3"
    assert image_stem("?!", 0) == "picture_0"
    assert len(image_stem("犬" * 300, 12).encode()) <= 204


def test_keys_change_only_where_a_prompt_is_read_otherwise(tmp_path: Path) -> None:
    """The first name is that of earlier versions, whose images stay valid."""
    plain, weighted = (
        generate(tmp_path, FakeGenerator(), [ImageRequest(prompt, 3)])[0] for prompt in ("a dog", "a (dog:1.2)")
    )
    assert plain.name == "a-dog_3_da57ac0453ee.png"
    knobs = KNOBS.model_copy(update={"solver": "ddim", "height": 8, "width": 8})
    known = hashlib.sha256()
    for fact in ("weights", "a (dog:1.2)", 3, json.dumps(knobs.as_key(), sort_keys=True), "typed"):
        part = str(fact).encode()
        known.update(len(part).to_bytes(8, "little") + part)
    assert weighted.stem.endswith(known.hexdigest()[:12])
    assert "Emphasis: Original" in read_png(weighted)[1]["parameters"]
    assert "Emphasis" not in read_png(plain)[1]["parameters"]
