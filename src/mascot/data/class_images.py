"""Class pictures for prior preservation: drawn by the frozen base, cached by what made them, topped up when more are asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from filelock import FileLock
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from mascot.storage.atomic_write import atomic_write
from mascot.storage.user_cache import cache_folder

DrawClass = Callable[[str, Sequence[int]], Iterator[Image.Image]]
"""Draws a prompt once per seed with the untouched base."""


class PriorSettings(BaseModel):
    """Prior preservation: what keeps the model from forgetting the class.

    With `images`, the class as the untouched base draws it is trained on beside the subject (Ruiz et al. 2023, eq. 2). With `outputs`,
    the untouched base's own answer to the class's words over the subject's photos is the target: no pictures, one forward pass more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal["images", "outputs"] = Field(
        default="images", description="pictures of the class, or the base's own outputs"
    )
    count: int = Field(default=100, ge=0, le=10_000, description="class pictures; 0 trains without prior preservation")
    weight: float = Field(default=1.0, ge=0, le=100, description="lambda of the paper")
    steps: int = Field(default=25, ge=1, le=1000, description="solver steps of each class picture")
    guidance: float = Field(default=5.0, ge=0, le=50, description="guidance scale of each class picture")
    seed: int = Field(default=0, ge=0, description="seed of the first class picture")

    @property
    def preserves(self) -> bool:
        """Whether the base's own outputs are kept."""
        return self.form == "outputs" and self.weight > 0

    @property
    def generates(self) -> bool:
        """Whether class pictures are needed."""
        return self.form == "images" and self.weight > 0 and self.count > 0


def class_images(
    settings: PriorSettings, *, identity: str, prompt: str, resolution: int, precision: str, generate: DrawClass
) -> list[Image.Image]:
    """Read the class pictures of one base and prompt, drawing those that are missing.

    The cache key holds everything that decides a picture but its number; picture i has the seed `settings.seed + i`.
    """
    facts = {
        "base": identity,
        "prompt": prompt,
        "resolution": resolution,
        "steps": settings.steps,
        "guidance": settings.guidance,
    }
    key = hashlib.sha256(json.dumps(facts | {"precision": precision}, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_folder() / "prior" / key
    seeds = [settings.seed + i for i in range(settings.count)]
    if settings.count:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # a second run of the same class waits, and then has nothing left to draw
            missing = [seed for seed in seeds if not (folder / f"{seed}.png").exists()]
            generated = (
                generate(prompt, missing) if missing else iter(())
            )  # to draw nothing would still read the prompt
            for seed, image in zip(missing, generated, strict=True):
                with atomic_write(folder / f"{seed}.png") as temporary:
                    image.save(temporary, format="PNG")
    images: list[Image.Image] = []
    for seed in seeds:
        with Image.open(folder / f"{seed}.png") as image:
            images.append(image.convert("RGB"))
    return images
