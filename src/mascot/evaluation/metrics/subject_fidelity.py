"""Is it the subject? DINO and CLIP-I of the paper: the same arithmetic on embeddings of two encoders.

Shape suffixes: B pictures, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def similarity(generated_BD: Tensor, real_BD: Tensor) -> float:
    """Average the cosine over all pairs of a generated and a real picture, in -1..1 (Ruiz et al. 2023, section 4.1).

    With embeddings of ViT-S/16 DINO this is the paper's DINO, with CLIP's its CLIP-I. High is good, but copies of the photos are higher
    still: read it beside the prompt's score. The numbers of pictures may differ.

    Raises:
        ValueError: a side has no pictures, or the widths differ.
    """
    if not len(generated_BD) or not len(real_BD):
        raise ValueError("similarity needs pictures on both sides")
    if generated_BD.shape[1:] != real_BD.shape[1:]:
        raise ValueError(f"embeddings {generated_BD.shape[1]} and {real_BD.shape[1]} wide are not of one encoder")
    return float((_unit(generated_BD) @ _unit(real_BD).T).mean())


def real_similarity(real_BD: Tensor) -> float | None:
    """Average the cosine over all pairs of two different real pictures, in -1..1: the row "Real Images" of the paper's table 1.

    It is the ceiling that `similarity` is read against. None with fewer than two pictures: then there is no pair.
    """
    count = len(real_BD)
    if count < 2:
        return None
    cosines_BB = _unit(real_BD) @ _unit(real_BD).T
    return float((cosines_BB.sum() - cosines_BB.trace()) / (count * (count - 1)))


def _unit(embeddings_BD: Tensor) -> Tensor:
    """In float64, so that the order of the pictures does not show."""
    return F.normalize(embeddings_BD.double(), dim=-1)
