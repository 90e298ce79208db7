"""Measure what bases' autoencoders keep of unseen scenes and photos, at the size of the scenes.

    python benchmarks/autoencoder.py BEFORE starter --photos examples/mascot/photos --sheet out.png

A base of a smaller size gets the scenes shrunk, and its images are enlarged again. Edges are the
sum of all differences between neighboring pixels, as a share of the scene's own. Times of decoding
are in fp32 on one core, as multiples of the first base's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))  # starter_training is in the checkout alone, never installed

from mascot.models import starter
from mascot.storage.atomic_write import atomic_write
from starter_training.models.autoencoder import to_pixels
from starter_training.scenes.scene_grammar import stream
from starter_training.scenes.world import SIDE, World

SEED = [1000, 5]
"""Seed of the scenes; no training composes scenes with it."""
GAP = 2
"""White pixels between the images of a sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """An autoencoder that is asked for images of `SIDE` pixels."""

    label: str
    model: Any
    """An `AutoencoderKL`, whose annotations do not fit its outputs."""
    side: int
    """Pixels along each side of the images that it was trained on."""

    @classmethod
    def read(cls, base: str) -> Reconstruction:
        """Read a base's autoencoder; the base is a folder or the word starter."""
        folder = starter.folder() if base == starter.EMBEDDED else Path(base)
        model: Any = AutoencoderKL.from_pretrained(folder, subfolder="vae", local_files_only=True).float().eval()
        cells = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"]
        return cls(label=base, model=model, side=cells * 2 ** (len(model.config.block_out_channels) - 1))

    @torch.no_grad()
    def apply(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode and decode images; the result has their size and range."""
        shrunk = F.interpolate(pixels_BCHW, size=(self.side, self.side), mode="area")
        decoded = self.model.decode(self.model.encode(shrunk).latent_dist.mean).sample.clamp(-1, 1)
        return F.interpolate(decoded, size=pixels_BCHW.shape[-2:], mode="bicubic").clamp(-1, 1)

    @torch.no_grad()
    def seconds(self) -> float:
        """Return the seconds that decoding an image takes: the fastest of five batches of eight."""
        cells = self.side // 2 ** (len(self.model.config.block_out_channels) - 1)
        latents = torch.randn(8, self.model.config.latent_channels, cells, cells)
        self.model.decode(latents)
        taken: list[float] = []
        for _ in range(5):
            start = time.perf_counter()
            self.model.decode(latents)
            taken.append(time.perf_counter() - start)
        return min(taken) / 8


def psnr(prediction: Tensor, pixels: Tensor) -> float:
    """Return the PSNR in dB of images in -1..1."""
    return -10 * math.log10(((prediction - pixels) / 2).square().mean().item())


def edges(pixels: Tensor) -> float:
    """Return the mean difference between neighboring pixels, across and down."""
    return pixels.diff(dim=-1).abs().mean().item() + pixels.diff(dim=-2).abs().mean().item()


def read_photos(folders: Sequence[Path]) -> list[Image.Image]:
    """Read each folder's first six images, cut to a square of `SIDE` pixels."""
    photos: list[Image.Image] = []
    for file in (file for folder in folders for file in sorted(folder.iterdir())[:6]):
        with Image.open(file) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            photos.append(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return photos


def to_image(pixels_CHW: Tensor) -> Image.Image:
    """Turn pixels in -1..1 into an image."""
    return Image.fromarray(((pixels_CHW + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def write_sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """Write a row of images for each of several batches of the same length."""
    step = SIDE + GAP
    sheet = Image.new("RGB", (len(rows[0]) * step, len(rows) * step), "white")
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            sheet.paste(to_image(pixels), (x * step, y * step))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def measure(options: argparse.Namespace) -> None:
    """Print a row for each base; write the sheet if one is asked for."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scenes = stream(World(options.work / "drawings.npz"), SEED)
    pixels = to_pixels([next(scenes)[0] for _ in range(options.count)])
    photos = to_pixels(read_photos(options.photos)) if options.photos else pixels[:12]
    models = [Reconstruction.read(base) for base in options.bases]
    first = models[0].seconds()
    print(f"{options.count} scenes of {SIDE} pixels, {len(photos)} photos\n")
    print("| autoencoder | parameters | latents | PSNR, scenes | edges, scenes | PSNR, photos | decoding |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows = [photos]
    for model in models:
        made = torch.cat([model.apply(batch) for batch in pixels.split(16)])
        rows.append(model.apply(photos))
        parameters = sum(p.numel() for p in model.model.parameters()) / 1e6
        kept = f"{psnr(made, pixels):.2f} dB | {edges(made) / edges(pixels):.3f} | {psnr(rows[-1], photos):.2f} dB"
        latents = model.model.config.latent_channels
        print(f"| {model.label} | {parameters:.2f} M | {latents} | {kept} | {model.seconds() / first:.1f} |")
    if options.sheet is not None:
        write_sheet(options.sheet, rows)


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="a folder, or the word starter")
    parser.add_argument("--work", type=Path, default=Path("starter_work"), help="folder of the starter's training")
    parser.add_argument("--count", type=int, default=128, help="scenes")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos, six of each")
    parser.add_argument("--sheet", type=Path, help="write the photos, and what each base makes of them, to this PNG")
    return parser.parse_args()


if __name__ == "__main__":
    measure(read_options())
