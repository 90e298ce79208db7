"""A tiny world for tests of evaluation: base, run, photos and encoders; and helpers for metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from laws.bad_places import fresh_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.api.evaluate import evaluate
from mascot.evaluation.metrics.image_encoders import ClipEncoder, IdentityEncoder, read_clip, read_identity_encoder
from mascot.evaluation.scores import Scores
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import noise

PROMPTS = ("a {subject} in the snow", "a photo of a {token} {class} on the beach")
PLAIN = ("a dog in the snow", "a photo of a dog on the beach")
"""The same prompts with the class noun alone."""
IMAGES = 2
"""Images of each prompt."""
TRAINED_ON, HELD_OUT = 2, 1
"""Photos that the run is trained on, and photos that it is not."""


class World:
    """A run that is trained on two of three photos, with tiny encoders."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self.identity, self.clip = tiny_identity(folder / "identity"), tiny_clip(folder / "clip")
        (folder / "photos").mkdir()
        for number in range(TRAINED_ON + HELD_OUT):
            noise(64 + number, 64).save(folder / "photos" / f"{number}.png")
        self.adapter = fresh_adapter(base)
        self.run = self.write("run")

    def write(self, name: str, *, seed: int = 0, class_noun: str | None = "dog", trained_on: int = TRAINED_ON) -> Run:
        """Write a run's folder as training does, with an adapter of random weights."""
        run, knobs = Run(self.folder / name), {"steps": 1}
        photos = tuple(str(self.folder / "photos" / f"{number}.png") for number in range(trained_on))
        overrides = ["token=sks", "prior.count=0", "knobs.steps=1"]
        recipe = Recipe.preset(photos=photos, base=str(self.base), class_noun=class_noun, overrides=overrides)
        run.write_text(run.recipe, recipe.to_toml())
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
            for key, tensor in self.adapter.tensors.items()
        }
        assert self.adapter.manifest is not None
        manifest = self.adapter.manifest.model_copy(
            update={"base": str(self.base), "class_noun": class_noun, "recipe": {"knobs": knobs}}
        )
        Adapter(tensors=tensors, metadata=self.adapter.metadata, manifest=manifest).write(run.adapter)
        return run

    def evaluate(self, run: Run | Path | None = None, **options: Any) -> Scores:
        """Evaluate with the tiny encoders."""
        given: dict[str, Any] = {
            "prompts": PROMPTS,
            "images": IMAGES,
            "identity": str(self.identity),
            "clip": str(self.clip),
        }
        return evaluate(run or self.run, **(given | {"device": "cpu"} | options))

    @property
    def encoders(self) -> tuple[IdentityEncoder, ClipEncoder]:
        """The identity encoder and the CLIP encoder."""
        return read_identity_encoder(self.identity), read_clip(self.clip)

    def photos(self, count: int) -> list[Image.Image]:
        """Read the first `count` photos."""
        return read([self.folder / "photos" / f"{number}.png" for number in range(count)])


def read(files: Sequence[Path]) -> list[Image.Image]:
    """Read images as RGB."""
    return [Image.open(file).convert("RGB") for file in files]


def cosines(one_BD: torch.Tensor, other_BD: torch.Tensor) -> list[float]:
    """Compute the cosine of every pair of rows."""
    return [float(cosine_similarity(a.double(), b.double(), dim=0)) for a, b in itertools.product(one_BD, other_BD)]


def mean(values: Sequence[float]) -> float:
    """Compute the arithmetic mean."""
    return sum(values) / len(values)


def value(scores: Scores, name: str) -> float:
    """Return the mean of a metric, which must exist."""
    found = scores.values[name].value
    assert found is not None
    return found
