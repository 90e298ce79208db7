"""DINO's self-distillation as an objective for the identity encoder.

Source: Caron et al. 2021, arXiv 2104.14294.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTModel

from starter_training.models.encoders import WIDTH, embed

PROTOTYPES = 1024


def assign(head: nn.Module, prototypes: Tensor, embeddings_BD: Tensor) -> Tensor:
    """Return the cosine of each embedding's projection with each prototype.

    Shape B x prototypes.
    """
    return F.normalize(head(embeddings_BD), dim=-1) @ F.normalize(prototypes, dim=-1).T


class Distillation(nn.Module):
    """A student that predicts a slowly moving teacher's output for the other view.

    Outputs are distributions over 1,024 prototypes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 128))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 128))
        self.teacher: tuple[ViTModel, nn.Module, Tensor] | None = None
        """Encoder, head and prototypes; a tuple, so that they are no parameters of this module."""
        self.center = torch.zeros(PROTOTYPES)
        """Moving average of the teacher's outputs."""

    def loss(self, student: ViTModel, inputs_BCHW: Tensor, warmth: float) -> Tensor:
        """Return the cross-entropy with the teacher's output for the other view.

        The teacher's output is centered and sharpened. Rows 2i and 2i + 1 are two views
        of one subject. The first call makes the teacher, also in a resumed training.

        Args:
            student: the encoder that is trained.
            inputs_BCHW: images in -1..1.
            warmth: 0 to 1; the teacher's temperature rises with it from 0.04 to 0.06.
        """
        if self.teacher is None:
            self.teacher = (copy.deepcopy(student), copy.deepcopy(self.head), self.prototypes.detach().clone())
        twin, head, prototypes = self.teacher
        with torch.no_grad():
            output = assign(head, prototypes, embed(twin, inputs_BCHW))
            probabilities = ((output - self.center) / (0.04 + 0.02 * warmth)).softmax(-1)
            target = probabilities.view(-1, 2, PROTOTYPES).flip(1).flatten(0, 1)
            self.center.lerp_(output.mean(0), 0.1)
        prediction = assign(self.head, self.prototypes, embed(student, inputs_BCHW))
        return -(target * (prediction / 0.1).log_softmax(-1)).sum(-1).mean()

    @torch.no_grad()
    def follow(self, student: ViTModel, momentum: float) -> None:
        """Move the teacher's weights by the share 1 - `momentum` towards the student's."""
        assert self.teacher is not None, "a step comes first"
        twin, head, prototypes = self.teacher
        pairs = [
            *zip(twin.parameters(), student.parameters(), strict=True),
            *zip(head.parameters(), self.head.parameters(), strict=True),
        ]
        for teacher, trained in [*pairs, (prototypes, self.prototypes)]:
            teacher.lerp_(trained, 1 - momentum)
