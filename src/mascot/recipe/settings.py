"""Sections of the recipe of no other room: checkpoints, previews, report, diagnosis, selection."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mascot.generation.prompts.prompt_sets import PREVIEWS


class CheckpointSettings(BaseModel):
    """The section `checkpoints`: which steps a run keeps, to resume from and to generate with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: int = Field(
        default=2, ge=1, le=10_000, description="newest checkpoints that are kept, each with the adapter of its step"
    )


class PreviewSettings(BaseModel):
    """The section `previews`: images that are generated during training, at fixed seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=200, ge=0, description="steps between two previews; 0 generates none")
    prompts: tuple[str, ...] = Field(
        default=PREVIEWS, min_length=1, description="prompts of the previews; number i, from 0, has seed + i"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the first preview")


class ReportSettings(BaseModel):
    """The section `report`: what the page of a run shows beside its photos and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(
        default=76,
        ge=0,
        le=1000,
        description="images that the report generates, of contexts and of the knobs; 0 generates none",
    )


class DiagnosisSettings(BaseModel):
    """The section `diagnosis`: the search for failure modes after training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(
        default=True, description="generate a few more images after training, and report failure modes"
    )
    images: int = Field(default=2, ge=2, le=100, description="images of each prompt of the diagnosis")


class SelectionSettings(BaseModel):
    """The section `selection`: how the checkpoint and the inference knobs are selected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(
        default=True, description="select checkpoint and knobs by measured likeness and prompt fidelity"
    )
    checkpoints: int = Field(default=6, ge=1, le=100, description="checkpoints that are validated, with the last step")
    patience: int = Field(
        default=3, ge=1, le=100, description="validations in a row without improvement after which training stops"
    )
    knobs: bool = Field(
        default=True, description="search guidance scale, UNet scale and text-encoder scale after training"
    )
    identity: str | None = Field(
        default=None, description="identity encoder: folder, hub id or starter; none takes the default"
    )
    clip: str | None = Field(
        default=None, description="CLIP encoder: folder, hub id or starter; none takes the default"
    )
    cost: float = Field(
        default=1.0, gt=0, le=100, description="most forward passes for selection, as a share of those for training"
    )
