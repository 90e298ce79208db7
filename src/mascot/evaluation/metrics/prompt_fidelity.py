"""Does the picture show what the prompt asks for? CLIP-T of the paper.

Shape suffixes: B pictures, D width of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def prompt_fidelity(images_BD: Tensor, prompts_BD: Tensor) -> float:
    """Average the cosine of each picture and its own prompt, in -1..1: CLIP-T (Ruiz et al. 2023, section 4.1). High is good.

    Row i of both belongs together. By convention the prompt is embedded without the subject's token, which CLIP has never read.

    Raises:
        ValueError: there are no rows, or the shapes differ.
    """
    if not len(images_BD) or images_BD.shape != prompts_BD.shape:
        raise ValueError(
            f"each picture needs its own prompt; the embeddings are {tuple(images_BD.shape)} and {tuple(prompts_BD.shape)}"
        )
    return float(F.cosine_similarity(images_BD.double(), prompts_BD.double(), dim=-1).mean())
