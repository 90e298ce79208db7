"""Class drift: PRES of DreamBooth, minus the base model's own value.

PRES is the mean pairwise cosine of images of the class and photos of the subject (Ruiz et al. 2023,
arXiv 2208.12242, table 3). The paper omits the value of the base model, which is subtracted here.

Shape suffixes: B images of the class, P photos, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor

from mascot.evaluation.metrics.subject_fidelity import similarity


def preservation(class_BD: Tensor, photos_PD: Tensor) -> float | None:
    """Compute PRES: the mean cosine over all pairs of class image and subject photo, in -1..1.

    This is PRES of Ruiz et al. 2023, table 3. The images are generated from `a [class]`, without
    the token, and embedded by the identity encoder. Low values are better: at high values the class
    has become the subject. Every class resembles its members to some degree, so `drift` is the
    number to read. None where a side has no images, as for a subject without a class noun.

    Raises:
        ValueError: the widths differ.
    """
    return similarity(class_BD, photos_PD) if len(class_BD) and len(photos_PD) else None


def drift(class_BD: Tensor, base_BD: Tensor, photos_PD: Tensor) -> float | None:
    """Compute PRES of the trained model minus PRES of the base model, in -2..2.

    0 means that training did not change the class; low values are better. `base_BD` are images of
    the same prompt by the base model; the same seeds give a steadier difference. None where one of
    the three has no images.

    Raises:
        ValueError: the widths differ.
    """
    trained, base = preservation(class_BD, photos_PD), preservation(base_BD, photos_PD)
    return None if trained is None or base is None else trained - base
