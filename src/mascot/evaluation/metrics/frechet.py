"""Frechet distance between two sets of embeddings (Heusel et al. 2017, arXiv 1706.08500).

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a_BD: Tensor, b_BD: Tensor) -> float:
    """Compute the Frechet distance of the normal distributions fitted to two sets of embeddings.

    It is |ma - mb|^2 + Tr(Ca + Cb - 2 (Ca Cb)^(1/2)) (Heusel et al. 2017, equation 6), and 0 for
    equal sets; low values are better. The embeddings may be any encoder's. Compare only values of
    one encoder at equal numbers of images, because small sets are biased upwards.

    Raises:
        ValueError: the widths differ, or a side has no more images than an embedding is wide.
    """
    width = a_BD.shape[1]
    if width != b_BD.shape[1]:
        raise ValueError(f"embeddings {width} and {b_BD.shape[1]} wide are not of one encoder")
    if min(len(a_BD), len(b_BD)) <= width:
        raise ValueError(
            f"embeddings {width} wide need more than {width} images on both sides, not {len(a_BD)} and {len(b_BD)}"
        )
    a_BD, b_BD = a_BD.double(), b_BD.double()
    root_a_DD, root_b_DD = _root(a_BD), _root(b_BD)
    # The eigenvalues of Ca Cb are the squares of these singular values. So no root of a rounding
    # error is taken.
    overlap = torch.linalg.svdvals(root_a_DD @ root_b_DD.T).sum()
    spread = root_a_DD.square().sum() + root_b_DD.square().sum() - 2 * overlap
    return max(0.0, float((a_BD.mean(0) - b_BD.mean(0)).square().sum() + spread))


def _root(x_BD: Tensor) -> Tensor:
    """Compute R with R^T R = the covariance of the rows."""
    return torch.linalg.qr((x_BD - x_BD.mean(0)) / (len(x_BD) - 1) ** 0.5, mode="r").R
