"""Subject fidelity: DINO and CLIP-I of DreamBooth, the mean pairwise cosine of embeddings.

The definition is that of Ruiz et al. 2023, arXiv 2208.12242, section 4.1. Both metrics are the same
function, on embeddings of two encoders.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def similarity(generated_BD: Tensor, real_BD: Tensor) -> float:
    """Compute the mean cosine over all pairs of a generated and a real image, in -1..1.

    With embeddings of ViT-S/16 DINO this is DINO, with CLIP's it is CLIP-I (Ruiz et al. 2023,
    section 4.1). High values are better, but copies of the photos score higher still; read it
    beside prompt fidelity. The numbers of images may differ.

    Raises:
        ValueError: a side has no images, or the widths differ.
    """
    if not len(generated_BD) or not len(real_BD):
        raise ValueError("similarity needs images on both sides")
    if generated_BD.shape[1:] != real_BD.shape[1:]:
        raise ValueError(f"embeddings {generated_BD.shape[1]} and {real_BD.shape[1]} wide are not of one encoder")
    return float((_unit(generated_BD) @ _unit(real_BD).T).mean())


def real_similarity(real_BD: Tensor) -> float | None:
    """Compute the mean cosine over all pairs of two different real images, in -1..1.

    This is the row "Real Images" of table 1 in Ruiz et al. 2023, the ceiling of `similarity`. None
    with fewer than two images, as there is no pair.
    """
    count = len(real_BD)
    if count < 2:
        return None
    cosines_BB = _unit(real_BD) @ _unit(real_BD).T
    return float((cosines_BB.sum() - cosines_BB.trace()) / (count * (count - 1)))


def _unit(embeddings_BD: Tensor) -> Tensor:
    """Normalize in float64, so that the order of the images does not change a score."""
    return F.normalize(embeddings_BD.double(), dim=-1)
