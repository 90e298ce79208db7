"""Laws of the gallery: nothing is drawn or measured twice, what was cut off goes on to the same bytes, what is kept says what made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from mascot.generation.sample_cache import SampleCache
from mascot.storage.image_files import image_stem, open_image

SHOTS = [ImageRequest(f"a sks dog {number}", number) for number in range(7)]
KNOBS = Knobs(steps=1)


@dataclass
class Artist:
    """Draws at once, and like a real base not quite the same in another batch: every picture shows who else was in its batch."""

    batch_size: int = 3
    drawn: list[ImageRequest] = field(default_factory=list[ImageRequest])
    family: Any = field(default_factory=lambda: SimpleNamespace(name="paint", identity="0123"))

    def with_defaults(self, knobs: Knobs) -> Knobs:
        """Name the solver."""
        return knobs.model_copy(update={"solver": knobs.solver or "ddim"})

    def size(self, knobs: Knobs) -> tuple[int, int]:
        """Eight pixels where nothing else is said."""
        return knobs.height or 8, knobs.width or 8

    def generate(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        """Draw in batches."""
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            for request in batch:
                self.drawn.append(request)
                yield Image.new(
                    "RGB", self.size(knobs)[::-1], (request.seed, sum(other.seed for other in batch), knobs.steps)
                )


@dataclass
class Eye:
    """An encoder, and a distance, that count what they look at."""

    name: str = "eye"
    seen: int = 0

    def describe(self) -> str:
        """Its name."""
        return self.name

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """The first pixel."""
        self.seen += len(images)
        return torch.tensor([image.getpixel((0, 0)) for image in images], dtype=torch.float32)

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """A distance for each pair."""
        self.seen += len(images)
        count = len(images)
        return [0.5 + number for number in range(count * (count - 1) // 2)]


def draw(
    folder: Path,
    artist: Artist,
    requests: Sequence[ImageRequest] = SHOTS,
    knobs: Knobs = KNOBS,
    made_by: str = "weights",
) -> list[Path]:
    return SampleCache(folder).generate(artist, requests, knobs, made_by)  # pyright: ignore[reportArgumentType]


def test_what_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    artist = Artist()
    first = draw(tmp_path, artist)
    before = [path.read_bytes() for path in first]
    assert draw(tmp_path, artist) == first
    assert (artist.drawn, [path.read_bytes() for path in first]) == (SHOTS, before)


def test_pictures_come_in_the_order_of_the_shots(tmp_path: Path) -> None:
    requests = [*SHOTS[::-1], SHOTS[3]]
    reds = [open_image(path).getpixel((0, 0))[0] for path in draw(tmp_path, Artist(), requests)]  # pyright: ignore[reportIndexIssue,reportOptionalSubscript]
    assert reds == [request.seed for request in requests]


@pytest.mark.parametrize("kept", range(len(SHOTS)))
def test_drawing_that_was_cut_off_ends_in_the_same_bytes(tmp_path: Path, kept: int) -> None:
    """Only what is missing is written, and only batches with something missing are drawn."""
    whole = [path.read_bytes() for path in draw(tmp_path / "whole", Artist())]
    images = SampleCache(tmp_path / "cut").images(Artist(), SHOTS, KNOBS, "weights")  # pyright: ignore[reportArgumentType]
    paths = [next(images) for _ in range(kept)]
    images.close()  # pyright: ignore[reportAttributeAccessIssue]
    times = [path.stat().st_mtime_ns for path in paths]
    artist = Artist()
    again = draw(tmp_path / "cut", artist)
    assert [path.read_bytes() for path in again] == whole
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert artist.drawn == SHOTS[kept // artist.batch_size * artist.batch_size :]


@pytest.mark.parametrize(
    "other",
    [
        {"shots": [ImageRequest("a sks dog 0", 1)]},
        {"shots": [ImageRequest("a SKS dog 0", 0)]},
        {"knobs": Knobs(steps=2)},
        {"knobs": Knobs(steps=1, width=16)},
        {"knobs": Knobs(steps=1, solver="euler")},
        {"made_by": "other weights"},
    ],
    ids=str,
)
def test_all_that_decides_a_picture_tells_pictures_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    one = {"shots": SHOTS[:1], "knobs": KNOBS, "made_by": "weights"}
    assert draw(tmp_path, Artist(), **one) != draw(tmp_path, Artist(), **(one | other))


def test_what_was_not_said_is_what_it_comes_to(tmp_path: Path) -> None:
    """A size or a solver that is named, or that comes by itself, gives one picture."""
    named = Knobs(steps=1, solver="ddim", width=8, height=8)
    assert draw(tmp_path, Artist(), SHOTS[:1], KNOBS) == draw(tmp_path, Artist(), SHOTS[:1], named)


def test_a_picture_says_what_made_it(tmp_path: Path) -> None:
    (path,) = draw(tmp_path, Artist(), SHOTS[2:3])
    with Image.open(path) as image:
        text = str(image.info["parameters"])
    assert text.startswith("a sks dog 2\n")
    for fact in ("Seed: 2", "Steps: 1", "Sampler: ddim", "Size: 8x8", "Model: paint 0123", "Adapter: weights"):
        assert fact in text
    assert path.name.startswith("a-sks-dog-2_2_")


def test_two_at_once_draw_no_picture_twice(tmp_path: Path) -> None:
    """The second comes while the first is at work, waits, and has nothing left to draw."""
    started, go = Event(), Event()

    class Slow(Artist):
        def draw(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
            for image in super().generate(requests, knobs):
                started.set()
                assert go.wait(30)
                yield image

    first, second = Slow(), Artist()
    threads = [Thread(target=draw, args=(tmp_path, artist)) for artist in (first, second)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    assert second.drawn == []
    go.set()
    for thread in threads:
        thread.join()
    assert (first.drawn, second.drawn) == (SHOTS, [])


def test_each_content_goes_through_each_encoder_once(tmp_path: Path) -> None:
    paths = draw(tmp_path, Artist())
    eye, other = Eye(), Eye("another eye")
    rows = SampleCache(tmp_path).embed(eye, [*paths, paths[0]])
    assert torch.equal(rows, Eye().embed([open_image(path) for path in [*paths, paths[0]]]))
    assert torch.equal(SampleCache(tmp_path).embed(eye, paths[::-1]), rows[:-1].flip(0))
    assert eye.seen == len(paths)
    SampleCache(tmp_path).embed(other, paths[:2])
    assert other.seen == 2


def test_another_content_under_the_same_name_is_looked_at_again(tmp_path: Path) -> None:
    (path,) = draw(tmp_path, Artist(), SHOTS[:1])
    eye = Eye()
    SampleCache(tmp_path).embed(eye, [path])
    Image.new("RGB", (8, 8), (9, 8, 7)).save(path)
    assert SampleCache(tmp_path).embed(eye, [path]).tolist() == [[9, 8, 7]]


def test_pictures_without_a_file_are_embedded_once(tmp_path: Path) -> None:
    eye = Eye()
    images = [Image.new("RGB", size, "red") for size in ((8, 4), (4, 8), (8, 4))]
    for _ in range(2):
        assert SampleCache(tmp_path).embed_images(eye, images).tolist() == [[255, 0, 0]] * 3
    assert eye.seen == 2  # as large and as red, but not of one shape


def test_distances_are_kept_by_pictures_and_by_what_measured(tmp_path: Path) -> None:
    paths = draw(tmp_path, Artist())
    eye = Eye()
    assert (
        SampleCache(tmp_path).distances(eye, paths[:3])
        == SampleCache(tmp_path).distances(eye, paths[:3])
        == [0.5, 1.5, 2.5]
    )
    assert eye.seen == 3
    SampleCache(tmp_path).distances(eye, paths[1:3])
    SampleCache(tmp_path).distances(Eye("another"), paths[:3])
    assert eye.seen == 5
    assert SampleCache(tmp_path).distances(eye, paths[:1]) == []


def test_nothing_cannot_be_embedded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        SampleCache(tmp_path).embed(Eye(), [])


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    (path,) = draw(tmp_path, Artist(), SHOTS[:1])
    SampleCache(tmp_path).embed(Eye(), [path])
    (kept,) = (tmp_path / "measured").glob("*.safetensors")
    kept.write_bytes(b"no tensors")
    with pytest.raises(UserError, match=f"{kept.name} is damaged; delete it"):
        SampleCache(tmp_path).embed(Eye(), [path])
    kept.unlink()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=f"{path.name} cannot be read; delete it"):
        SampleCache(tmp_path).embed(Eye(), [path])
    path.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        SampleCache(tmp_path).embed(Eye(), [path])


def test_a_file_in_the_gallery_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match="taken cannot be made"):
        draw(tmp_path / "taken", Artist())


def test_any_prompt_becomes_a_file_s_name() -> None:
    assert image_stem("A sks/Dog, wearing a HAT!", 3) == "a-sks-dog-wearing-a-hat_3"
    assert image_stem("?!", 0) == "picture_0"
    assert len(image_stem("犬" * 300, 12).encode()) <= 204
