"""Does the class still look like the class? PRES of the paper, and what it omits: how the untouched base scores.

Shape suffixes: B pictures of the class, P photos, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor

from mascot.evaluation.metrics.subject_fidelity import similarity


def preservation(class_BD: Tensor, photos_PD: Tensor) -> float | None:
    """Average the cosine over all pairs of a picture of the class and a photo of the subject, in -1..1: PRES (Ruiz et al. 2023, table 3).

    The pictures are drawn from `a [class]`, without the token; the encoder is the one of identity. Low is good: high means that the class
    has turned into the subject. A class looks a little like its members anyhow, so read it as `drift`. None where a side has no pictures,
    as for a subject without a class noun.

    Raises:
        ValueError: the widths differ.
    """
    return similarity(class_BD, photos_PD) if len(class_BD) and len(photos_PD) else None


def drift(class_BD: Tensor, untouched_BD: Tensor, photos_PD: Tensor) -> float | None:
    """Subtract the untouched base's PRES from the trained one's, in -2..2: 0 says that training left the class alone. Low is good.

    `untouched_BD` are pictures of the same prompt, drawn with the base before training (the same seeds make the difference steadier).
    None where one of the three has no pictures.

    Raises:
        ValueError: the widths differ.
    """
    now, before = preservation(class_BD, photos_PD), preservation(untouched_BD, photos_PD)
    return None if now is None or before is None else now - before
