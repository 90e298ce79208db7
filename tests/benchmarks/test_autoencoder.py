"""Laws of measuring autoencoders: known PSNRs and edges, and one size for all bases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.autoencoder import Reconstruction, edges, psnr, read_photos
from mascot.models import starter
from starter_training.scenes.world import SIDE


def test_psnr_is_of_the_whole_range() -> None:
    """An error of a tenth of the range everywhere is 20 dB, of a hundredth 40 dB."""
    pixels = torch.zeros(2, 3, 4, 4)
    assert psnr(pixels + 0.2, pixels) == pytest.approx(20, abs=1e-4)
    assert psnr(pixels + 0.02, pixels) == pytest.approx(40, abs=1e-4)


def test_edges_count_differences_both_ways() -> None:
    """Stripes a pixel wide differ everywhere across and nowhere down; blurred ones differ less."""
    stripes = torch.tensor([-1.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
    assert edges(stripes) == edges(stripes.mT) == 2
    assert edges(stripes / 2) == 1
    assert edges(torch.ones(1, 3, 8, 8)) == 0


@pytest.mark.parametrize("side", [SIDE // 2, SIDE])
def test_images_keep_their_size_whatever_the_bases(side: int) -> None:
    """A plain image comes back nearly as it was, also through an autoencoder of half the size."""
    whole = Reconstruction.read(starter.EMBEDDED)
    assert whole.side == SIDE
    made = Reconstruction(label="x", model=whole.model, side=side).apply(torch.full((1, 3, SIDE, SIDE), 0.25))
    assert made.shape == (1, 3, SIDE, SIDE)
    assert psnr(made, torch.full_like(made, 0.25)) > 20


def test_photos_are_cut_to_their_middle(tmp_path: Path) -> None:
    """The first six of a folder, by name; a wide one loses its ends."""
    wide = Image.new("RGB", (400, 200), "black")
    wide.paste((255, 255, 255), (100, 0, 300, 200))
    for number in range(7):
        wide.save(tmp_path / f"{number}.png")
    photos = read_photos([tmp_path])
    assert [photo.size for photo in photos] == [(SIDE, SIDE)] * 6
    assert photos[0].getextrema() == ((255, 255),) * 3
