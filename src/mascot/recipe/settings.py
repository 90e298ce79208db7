"""TODO recipe.settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mascot.generation.prompt_sets import PREVIEWS


class PreviewSettings(BaseModel):
    """Pictures drawn while training, at fixed seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=200, ge=0, description="steps between two previews; 0 draws none")
    prompts: tuple[str, ...] = Field(
        default=PREVIEWS, min_length=1, description="what they show; preview i has seed + i"
    )
    seed: int = Field(default=0, ge=0, description="seed of the first preview")


class DiagnosisSettings(BaseModel):
    """Whether a run is told what ails it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(
        default=True, description="draw some pictures more after training, and say in the report what went wrong"
    )
    images: int = Field(default=2, ge=2, le=100, description="pictures of each of its prompts")


class SelectionSettings(BaseModel):
    """How checkpoint and knobs are chosen while training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(
        default=True, description="choose checkpoint and knobs by measured likeness and prompt fidelity"
    )
    checkpoints: int = Field(
        default=6, ge=1, le=100, description="checkpoints that are looked at, the last step among them"
    )
    patience: int = Field(
        default=3, ge=1, le=100, description="looks in a row without a better one after which training stops"
    )
    knobs: bool = Field(default=True, description="search guidance, UNet scale and text scale afterwards")
    identity: str | None = Field(
        default=None, description="encoder of likeness: folder, hub id or starter; none takes the usual"
    )
    clip: str | None = Field(default=None, description="encoder of prompts, likewise")
    cost: float = Field(
        default=1.0, gt=0, le=100, description="passes through the denoiser at most, as a share of training's own"
    )
