"""Write the trained base as package data: half precision, no private paths, read back and compared before it counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from mascot.errors import UserError
from starter_recipe.base import read_pipeline
from starter_recipe.drawings import read_objects
from starter_recipe.folders import whole_folder
from starter_recipe.places import PLACES
from starter_recipe.prompts import PROMPTS

LIMIT_MB = 40.0
"""Most that the base may weigh, in millions of bytes: it travels inside the wheel."""
PARTS = ("unet", "text_encoder", "vae")
ORIGINS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
"""Configuration keys that say where a module was read from, and how: the maker's own folders."""
TOLERANCE = 1e-3
"""Largest difference of a pixel in 0..1 between the written base and the one in memory; attention kernels differ by about 1e-5."""

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The starter: a small text-to-image model made of openly licensed drawings

A Stable Diffusion pipeline for {side} px pictures, trained from random weights on composed scenes: emoji drawings in front of procedural
backgrounds, with captions of a small grammar. It exists so that subject-driven generation can be tried, tested and measured on any
computer, offline, in minutes.

| part | parameters |
|---|--:|
{parameters}

Tokens: {tokens}; positions of a prompt: {positions}. Weights: float16, {megabytes:.1f} MB in all files.
Denoiser: {prediction}, zero terminal SNR, latents of {latents}.

## What it was made from
{packages}

Which drawings, under which nouns, and which are held out of all training: `starter_recipe/objects.toml`. How it is made, step by step:
`starter_recipe/`. The licences' notices: `NOTICE` at the root of the repository. The weights themselves are released under the Apache
License 2.0; what the drawings' licences ask for goes on to apply: keep `NOTICE` with copies.

## What it can and cannot do
- It was shown {nouns} nouns (`nouns.txt`) and {places} places, in {arts} arts, with colours, a few styles, hats, sizes and pairs. Other
  words mean little to it.
- It draws cartoons. It has seen no photographs, no people and no text; "a photo of" is a form of words to it.
- Expect small details and thin lines to blur, and two objects in one picture, counting and rare styles to fail at times.
- Nothing here is evidence about the quality of large models: it is a test bench, not a competitor.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What `write_base` wrote: the folder, its size in millions of bytes, parameters by part."""

    folder: Path
    megabytes: float
    parameters: dict[str, int]

    def summary(self) -> str:
        """One line: parameters by part, size, folder."""
        counts = ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in self.parameters.items())
        return f"{counts}; {self.megabytes:.1f} MB in {self.folder}"


def draw(pipeline: StableDiffusionPipeline) -> np.ndarray:
    """Three small drawings, B x H x W x 3 in 0..1, the same for the same weights."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    call: Any = pipeline
    return call(
        list(PROMPTS[:3]), num_inference_steps=6, guidance_scale=4.0, generator=generators, output_type="np"
    ).images


def strip_origins(folder: Path) -> None:
    """Remove from every configuration where the maker had read the module from."""
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if any(key in content for key in ORIGINS):
            kept = {key: value for key, value in content.items() if key not in ORIGINS}
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def count_parameters(pipeline: StableDiffusionPipeline) -> dict[str, int]:
    """Parameters by part."""
    return {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in PARTS}


def megabytes_of(folder: Path) -> float:
    """Millions of bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def package_rows() -> str:
    """The packages of drawings, with their makers and licences, as lines of a list."""
    return "\n".join(
        f"- {f['title']} {f['version']} (`{name}`), {f['author']}: {f['licence']}"
        for name, f in read_objects()["packages"].items()
    )


def open_to_all(folder: Path) -> None:
    """Let everyone read the files: safetensors writes some that only their owner may read, and package data is for everyone."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def describe(pipeline: StableDiffusionPipeline, megabytes: float) -> str:
    """Fill the model card with what can be read off the pipeline itself."""
    objects = read_objects()
    parts: Any = pipeline
    channels, latent_side = parts.unet.config.in_channels, parts.unet.config.sample_size
    return CARD.format(
        side=latent_side * parts.vae_scale_factor, tokens=len(parts.tokenizer), positions=parts.tokenizer.model_max_length,
        parameters="\n".join(f"| {part} | {count:,} |" for part, count in count_parameters(pipeline).items()), megabytes=megabytes,
        prediction=parts.scheduler.config.prediction_type.replace("_", "-"), latents=f"{channels} x {latent_side} x {latent_side}",
        packages=package_rows(), nouns=len(objects["nouns"]), places=len(PLACES), arts=len(objects["arts"]),
    )  # fmt: skip


def verify(folder: Path, expected: np.ndarray) -> None:
    """Read a written base back and compare its drawings; raises RuntimeError where they differ."""
    reloaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    difference = float(np.abs(draw(reloaded) - expected).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The base read back from {folder} draws other pictures: they differ by up to {difference:.4f}."
        )


def write_base(pipeline: StableDiffusionPipeline, out: Path, *, limit_mb: float = LIMIT_MB) -> Export:
    """Write a pipeline in half precision with a model card; `out` changes only when all of it is written, light enough and read back.

    The pipeline's weights become float32 numbers that float16 can hold. Raises UserError above `limit_mb` millions of bytes and
    RuntimeError where the written folder draws other pictures than the pipeline.
    """
    with whole_folder(out) as folder:
        pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
        strip_origins(folder)
        megabytes = megabytes_of(folder)
        if megabytes > limit_mb:
            raise UserError(
                f"The base weighs {megabytes:.1f} MB; make it narrower in starter_recipe/base.py: {limit_mb:.0f} MB is the limit."
            )
        verify(folder, draw(pipeline.to(torch.float32)))
        (folder / "README.md").write_text(describe(pipeline, megabytes), encoding="utf-8")
        (folder / "nouns.txt").write_text(
            "".join(f"{noun}\n" for noun in sorted(read_objects()["nouns"])), encoding="utf-8"
        )
        open_to_all(folder)
    return Export(folder=out, megabytes=megabytes, parameters=count_parameters(pipeline))


def export_base(work: Path, out: Path) -> Export:
    """Write what has been trained so far in `work` to `out`; raises UserError where a step before this one has not run."""
    for made, step in (
        ("tokenizer/tokenizer.json", "tokenizer"),
        ("vae/config.json", "vae"),
        ("base/weights.pt", "base"),
    ):
        if not (work / made).is_file():
            raise UserError(f"{work / made} is missing: run `python -m starter_recipe {step} --work {work}` first.")
    return write_base(read_pipeline(work), out)
