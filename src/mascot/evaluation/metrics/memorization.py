"""Memorization: copy scores, with and without a held-out photo.

Subject fidelity rewards copying: a returned training photo scores best. So neither DINO nor CLIP-I
means much without a copy score beside it. The scores are mascot's own; each compares an image's
nearest training photo with another nearest photo.

Shape suffixes: B generated images, T training photos, P photos of either kind, D width of an
embedding.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor
from torch.nn import functional as F


def copy_score(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor | None) -> float | None:
    """Average the cosine to the nearest training photo minus that to the nearest held-out photo.

    It lies in -2..2, and low values are better. The cosines are an identity encoder's. Both nearest
    photos are of equal numbers, because the nearest of many photos is nearer than the nearest of
    few without any copying. With T training and P held-out photos and k the smaller number, each is
    the nearest of k photos, averaged over all choices of k. With one held-out photo this is the
    mean cosine to the training photos minus the cosine to that photo. With equal numbers it is the
    plain difference.

    A positive score means copying: held-out photos of the same subject are as good a likeness.
    Images that were generated without knowledge of the split score 0: averaged over every split of
    one set of photos into T and P, the score of a fixed image is exactly 0. A single split may
    differ from 0 where a held-out photo is unlike the others; compare it with the base model's
    score. None where one of the three has no images.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    scores = copy_scores(generated_BD, training_TD, held_out_PD)
    return sum(scores) / len(scores) if scores else None


def copy_scores(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor | None) -> list[float] | None:
    """Compute the copy score of each image, in order; `copy_score` is their mean.

    None where `copy_score` is None.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    if held_out_PD is None or not (len(generated_BD) and len(training_TD) and len(held_out_PD)):
        return None
    count = min(len(training_TD), len(held_out_PD))
    return (_nearest_of(count, generated_BD, training_TD) - _nearest_of(count, generated_BD, held_out_PD)).tolist()


def held_out_share(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor) -> float:
    """Compute the share of images, in 0..1, whose nearest of all T + P photos is a held-out one.

    Low values mean copying. Chance gives P / (T + P): averaged over every split of one set of
    photos into T and P, fixed images score exactly that. The share detects copies that `copy_score`
    dilutes, such as a different training photo returned each time. A tie counts for the held-out
    photo.

    Raises:
        ValueError: one of the three has no images, the widths differ, or an embedding is not
            finite.
    """
    if not (len(generated_BD) and len(training_TD) and len(held_out_PD)):
        raise ValueError("the share needs images, training photos and held-out photos")
    return float((_nearest(generated_BD, held_out_PD) >= _nearest(generated_BD, training_TD)).double().mean())


def nearest_excess(generated_BD: Tensor, training_TD: Tensor) -> float | None:
    """Average each image's cosine to its nearest training photo, minus `real_nearest`.

    It lies in -2..2. This is the weaker sign of copying, for subjects without a held-out photo. It
    is positive where images are nearer to a photo than the next photo is; photos that are much
    alike make this harder to reach. None with fewer than two photos, or without images.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    excesses = nearest_excesses(generated_BD, training_TD)
    return sum(excesses) / len(excesses) if excesses else None


def nearest_excesses(generated_BD: Tensor, training_TD: Tensor) -> list[float] | None:
    """Compute the excess of each image, in order; `nearest_excess` is their mean.

    None where `nearest_excess` is None.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    among_photos = real_nearest(training_TD)
    if among_photos is None or not len(generated_BD):
        return None
    return (_nearest(generated_BD, training_TD) - among_photos).tolist()


def real_nearest(photos_PD: Tensor) -> float | None:
    """Average each photo's cosine to its nearest other photo, in -1..1.

    It says how near two different photos are. None with fewer than two photos.

    Raises:
        ValueError: an embedding is not finite.
    """
    count = len(photos_PD)
    if count < 2:
        return None
    cosines_PP = _cosines(photos_PD, photos_PD)
    # -2 lies below every cosine, so that no photo is its own neighbor.
    return float(cosines_PP.fill_diagonal_(-2).amax(dim=1).mean())


def _nearest_of(count: int, images_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """Compute each image's cosine to the nearest of `count` photos, averaged over all choices.

    Shape B, float64.
    """
    total = len(photos_PD)
    # The share of the choices in which the photo of this rank, in ascending order, is the nearest.
    shares = [comb(rank, count - 1) / comb(total, count) for rank in range(total)]
    ascending_BP = _cosines(images_BD, photos_PD).sort(dim=1).values
    return ascending_BP @ torch.tensor(shares, dtype=torch.float64, device=images_BD.device)


def _nearest(images_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """Compute each image's cosine to its nearest photo. Shape B, float64."""
    return _cosines(images_BD, photos_PD).amax(dim=1)


def _cosines(images_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """Compute every image's cosine to every photo. Shape B x P, float64."""
    if images_BD.shape[1:] != photos_PD.shape[1:]:
        raise ValueError(f"embeddings {images_BD.shape[1]} and {photos_PD.shape[1]} wide are not of one encoder")
    cosines_BP = F.normalize(images_BD.double(), dim=-1) @ F.normalize(photos_PD.double(), dim=-1).T
    if not cosines_BP.isfinite().all():
        raise ValueError("an embedding is not finite")
    return cosines_BP
