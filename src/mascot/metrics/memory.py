"""Are the pictures copies of the photos they were learned from? Two copy scores, with and without a photo that was held out.

Likeness rewards copying (a photo that is handed back scores best), so neither DINO nor CLIP-I means much without one of these beside it.

Shape suffixes: B generated pictures, T training photos, P photos of either kind, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def copy_score(generated_BD: Tensor, training_TD: Tensor, held_out_PD: Tensor | None) -> float | None:
    """Average how much nearer each picture is to its nearest training photo than to its nearest held-out photo, in -2..2.

    Both are cosines of one identity encoder; positive means nearer to what was trained on. Photos of the same subject that were not trained
    on are as good a likeness, so what is left of the difference is copying. The nearest of many is nearer than the nearest of few:
    with more training than held-out photos the score lies above 0 without any copying, so compare it at equal numbers of photos, with
    the untouched base's or another run's. None where one of the three has no pictures.

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
    return (_nearest(generated_BD, training_TD) - _nearest(generated_BD, held_out_PD)).tolist()


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
