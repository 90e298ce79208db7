"""Write the trained base as package data: half precision, no private paths, compared before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from mascot.errors import UserError
from starter_training.atomic_folder import atomic_folder
from starter_training.drawings.objects import read_objects
from starter_training.export.model_cards import BASE_CARD, package_rows
from starter_training.export.package_folder import megabytes_of, open_to_all, strip_origins
from starter_training.models.base import read_pipeline
from starter_training.models.prompt_grid import PROMPTS
from starter_training.scenes.backgrounds import PLACES

LIMIT_MB = 40.0
"""Largest size of the base in millions of bytes; it is part of the wheel."""
PARTS = ("unet", "text_encoder", "vae")
TOLERANCE = 1e-3
"""Largest pixel difference in 0..1 between the written base and the one in memory.

Different attention kernels differ by about 1e-5.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What `write_base` wrote."""

    folder: Path
    megabytes: float
    """Millions of bytes."""
    parameters: dict[str, int]
    """Parameters of each part."""

    def summary(self) -> str:
        """Format parameters, size and folder in one line."""
        counts = ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in self.parameters.items())
        return f"{counts}; {self.megabytes:.1f} MB in {self.folder}"


def generate_samples(pipeline: StableDiffusionPipeline) -> NDArray[np.float32]:
    """Generate three small images, the same for the same weights.

    Shape B x H x W x 3, range 0..1.
    """
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    images = pipeline(
        list(PROMPTS[:3]), num_inference_steps=6, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    return np.asarray(images)


def count_parameters(pipeline: StableDiffusionPipeline) -> dict[str, int]:
    """Count the parameters of each part."""
    return {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in PARTS}


def base_card(pipeline: StableDiffusionPipeline, megabytes: float) -> str:
    """Fill the model card with facts read from the pipeline itself."""
    objects = read_objects()
    parts: Any = pipeline
    channels, latent_side = parts.unet.config.in_channels, parts.unet.config.sample_size
    return BASE_CARD.format(
        side=latent_side * parts.vae_scale_factor,
        tokens=len(parts.tokenizer),
        positions=parts.tokenizer.model_max_length,
        parameters="\n".join(f"| {part} | {count:,} |" for part, count in count_parameters(pipeline).items()),
        megabytes=megabytes,
        prediction=parts.scheduler.config.prediction_type.replace("_", "-"),
        latents=f"{channels} x {latent_side} x {latent_side}",
        packages=package_rows(),
        nouns=len(objects["nouns"]),
        places=len(PLACES),
        arts=len(objects["arts"]),
    )


def verify(folder: Path, expected: NDArray[np.float32]) -> None:
    """Read a written base back and compare the images that it generates.

    Raises:
        RuntimeError: they differ from `expected`.
    """
    reloaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    difference = float(np.abs(generate_samples(reloaded) - expected).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The base read back from {folder} generates other images: they differ by up to {difference:.4f}."
        )


def write_base(pipeline: StableDiffusionPipeline, out: Path, *, limit_mb: float = LIMIT_MB) -> Export:
    """Write a pipeline in half precision, with a model card.

    `out` changes only when everything is written, small enough and read back. The pipeline's
    weights become float32 numbers that float16 can represent.

    Raises:
        UserError: the files exceed `limit_mb` millions of bytes.
        RuntimeError: the written folder generates other images than the pipeline.
    """
    with atomic_folder(out) as folder:
        pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
        strip_origins(folder)
        megabytes = megabytes_of(folder)
        if megabytes > limit_mb:
            raise UserError(
                f"The base has {megabytes:.1f} MB and {limit_mb:.0f} MB is the limit: "
                "make it narrower in starter_training/models/base.py."
            )
        verify(folder, generate_samples(pipeline.to(torch.float32)))
        (folder / "README.md").write_text(base_card(pipeline, megabytes), encoding="utf-8")
        nouns = "".join(f"{noun}\n" for noun in sorted(read_objects()["nouns"]))
        (folder / "nouns.txt").write_text(nouns, encoding="utf-8")
        open_to_all(folder)
    return Export(folder=out, megabytes=megabytes, parameters=count_parameters(pipeline))


def export_base(work: Path, out: Path) -> Export:
    """Write the weights trained so far in `work` to `out`.

    Raises:
        UserError: an earlier step has not run.
    """
    for needed, step in (
        ("tokenizer/tokenizer.json", "tokenizer"),
        ("vae/config.json", "vae"),
        ("base/weights.pt", "base"),
    ):
        if not (work / needed).is_file():
            raise UserError(f"{work / needed} is missing: run `python -m starter_training {step} --work {work}` first.")
    return write_base(read_pipeline(work), out)
