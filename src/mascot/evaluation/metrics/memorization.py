"""Are the pictures copies of the photos they were learned from? Two copy scores, with and without a photo that was held out.

Likeness rewards copying (a photo that is handed back scores best), so neither DINO nor CLIP-I means much without one of these beside it.

Shape suffixes: B generated pictures, T training photos, P photos of either kind, D width of an embedding.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor
from torch.nn import functional as F


def copy_score(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor | None) -> float | None:
    """Average how much nearer each picture is to its nearest training photo than to its nearest held-out photo, in -2..2.

    Both are cosines of one identity encoder, and both are of equal numbers of photos: with T training and P held-out photos and k the
    smaller number, it is the nearest of k photos of each kind, averaged over all choices of k. (The nearest of many is nearer than the
    nearest of few, which is no copying.) With one held-out photo it is the mean cosine to the training photos less the cosine to that
    one; with as many of both it is the plain difference.

    Positive means nearer to what was trained on: photos of the same subject that were not trained on are as good a likeness, so what is
    left of the difference is copying. It is 0 for whatever was drawn without knowing which photos were held out: averaged over every
    split of one set of photos into T and P, the score of any fixed picture is exactly 0. One split may lie beside 0, where a held-out
    photo is unlike the rest; compare it with the untouched base's. None where one of the three has no pictures.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    scores = copy_scores(generated_BD, training_TD, held_out_PD)
    return sum(scores) / len(scores) if scores else None


def copy_scores(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor | None) -> list[float] | None:
    """Score each picture on its own, in order: the values that `copy_score` averages, and None where it is.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    if held_out_PD is None or not (len(generated_BD) and len(training_TD) and len(held_out_PD)):
        return None
    count = min(len(training_TD), len(held_out_PD))
    return (_nearest_of(count, generated_BD, training_TD) - _nearest_of(count, generated_BD, held_out_PD)).tolist()


def held_out_share(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor) -> float:
    """Count how many of the pictures are nearest to a held-out photo, of all T + P photos, as a share in 0..1; low is copying.

    By chance it is P / (T + P): averaged over every split of one set of photos into T and P, exactly that for any fixed pictures. It
    notices copies that `copy_score` dilutes, such as a different photo handed back each time; a tie counts for the held-out photo.

    Raises:
        ValueError: one of the three has no pictures, the widths differ, or an embedding is not finite.
    """
    if not (len(generated_BD) and len(training_TD) and len(held_out_PD)):
        raise ValueError("the share needs pictures, training photos and held-out photos")
    return float((_nearest(generated_BD, held_out_PD) >= _nearest(generated_BD, training_TD)).double().mean())


def nearest_excess(generated_BD: Tensor, training_TD: Tensor) -> float | None:
    """Average how much nearer each picture is to its nearest training photo than the photos are to each other, in -2..2.

    The weaker sign of copying, for subjects without a held-out photo: it is positive where pictures lie nearer to one photo than the next
    photo does (`real_nearest`), which photos that are much alike make harder to reach. None with fewer than two photos or no picture.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    excesses = nearest_excesses(generated_BD, training_TD)
    return sum(excesses) / len(excesses) if excesses else None


def nearest_excesses(generated_BD: Tensor, training_TD: Tensor) -> list[float] | None:
    """Score each picture on its own, in order: the values that `nearest_excess` averages, and None where it is.

    Raises:
        ValueError: the widths differ, or an embedding is not finite.
    """
    own = real_nearest(training_TD)
    if own is None or not len(generated_BD):
        return None
    return (_nearest(generated_BD, training_TD) - own).tolist()


def real_nearest(photos_PD: Tensor) -> float | None:
    """Average the cosine of each photo and the nearest of the others, in -1..1: how near two honest photos come.

    None with fewer than two photos.

    Raises:
        ValueError: an embedding is not finite.
    """
    count = len(photos_PD)
    if count < 2:
        return None
    cosines_PP = _cosines(photos_PD, photos_PD)
    return float(cosines_PP.fill_diagonal_(-2).amax(dim=1).mean())  # below every cosine: no photo is its own neighbour


def _nearest_of(count: int, pictures_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """The cosine of each picture and the nearest of so many photos, averaged over all choices of them. Shape B, float64."""
    total = len(photos_PD)
    choices = [
        comb(place, count - 1) / comb(total, count) for place in range(total)
    ]  # in which the photo at that place is the nearest
    return _cosines(pictures_BD, photos_PD).sort(dim=1).values @ torch.tensor(
        choices, dtype=torch.float64, device=pictures_BD.device
    )


def _nearest(pictures_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """The cosine of each picture and its nearest photo. Shape B, float64."""
    return _cosines(pictures_BD, photos_PD).amax(dim=1)


def _cosines(pictures_BD: Tensor, photos_PD: Tensor) -> Tensor:
    """Every picture's cosine to every photo. Shape B x P, float64."""
    if pictures_BD.shape[1:] != photos_PD.shape[1:]:
        raise ValueError(f"embeddings {pictures_BD.shape[1]} and {photos_PD.shape[1]} wide are not of one encoder")
    cosines_BP = F.normalize(pictures_BD.double(), dim=-1) @ F.normalize(photos_PD.double(), dim=-1).T
    if not cosines_BP.isfinite().all():
        raise ValueError("an embedding holds what is no number")
    return cosines_BP
