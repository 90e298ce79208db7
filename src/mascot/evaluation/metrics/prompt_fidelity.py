"""Prompt fidelity: CLIP-T of DreamBooth, the mean cosine of CLIP embeddings of image and prompt.

The definition is that of Ruiz et al. 2023, arXiv 2208.12242, section 4.1.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def prompt_fidelity(images_BD: Tensor, prompts_BD: Tensor) -> float:
    """Compute CLIP-T: the mean cosine of each image and its own prompt, in -1..1.

    High values are better. Row i of both belongs together. By convention the prompt is embedded
    without the subject's token, which CLIP has never seen (Ruiz et al. 2023, section 4.1).

    Raises:
        ValueError: there are no rows, or the shapes differ.
    """
    if not len(images_BD) or images_BD.shape != prompts_BD.shape:
        shapes = f"{tuple(images_BD.shape)} and {tuple(prompts_BD.shape)}"
        raise ValueError(f"each image needs its own prompt; the embeddings are {shapes}")
    return float(F.cosine_similarity(images_BD.double(), prompts_BD.double(), dim=-1).mean())
