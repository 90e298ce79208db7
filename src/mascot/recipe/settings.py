"""TODO recipe.settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mascot.generation.prompt_sets import PREVIEWS


class Previews(BaseModel):
    """Pictures drawn while training, at fixed seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=200, ge=0, description="steps between two previews; 0 draws none")
    prompts: tuple[str, ...] = Field(default=PREVIEWS, min_length=1, description="what they show; preview i has seed + i")
    seed: int = Field(default=0, ge=0, description="seed of the first preview")


class Diagnosing(BaseModel):
    """Whether a run is told what ails it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(default=True, description="draw some pictures more after training, and say in the report what went wrong")
    images: int = Field(default=2, ge=2, le=100, description="pictures of each of its prompts")
