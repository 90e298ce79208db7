"""Inference settings (knobs), image requests, and the settings text of a PNG file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mascot.storage.strict_parsing import is_unicode

LARGEST_SCALE = 4
"""Largest strength of an adapter."""


class Knobs(BaseModel):
    """Inference settings: guidance scale, adapter strength, negative prompt, solver and size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    guidance: float = Field(
        default=7.5,
        ge=0,
        le=100,
        description="classifier-free guidance scale (Ho & Salimans 2022); 1 generates without guidance",
    )
    unet_scale: float = Field(
        default=1.0, ge=0, le=LARGEST_SCALE, description="strength of the denoiser's part of the adapter; 0 is the base"
    )
    text_scale: float = Field(
        default=1.0, ge=0, le=LARGEST_SCALE, description="strength of the text encoder's part of the adapter"
    )
    negative: str = Field(default="", description="negative prompt: what not to generate")
    true_guidance: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="classifier-free guidance scale of a base that embeds another one; 1 generates without",
    )
    steps: int = Field(default=30, ge=1, le=1000, description="solver steps")
    solver: str | None = Field(default=None, description="ddim, dpm++, euler or unipc; the base's own when not given")
    height: int | None = Field(default=None, ge=8, le=8192, description="pixels; the adapter's own when not given")
    width: int | None = Field(default=None, ge=8, le=8192, description="pixels; the adapter's own when not given")

    @field_validator("negative")
    @classmethod
    def check_negative(cls, negative: str) -> str:
        """Refuse a negative prompt that is not UTF-8."""
        if not is_unicode(negative):
            raise ValueError("it is not UTF-8; write it with that encoding")
        return negative

    def as_key(self) -> dict[str, object]:
        """Return the knobs that decide an image, as keys of caches hold them.

        Those that came later are left out at their defaults, so that older keys stay valid.
        """
        return self.model_dump(exclude={"true_guidance"} if self.true_guidance == 1 else None)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image to generate: a prompt and a seed."""

    prompt: str
    seed: int


def settings_text(
    request: ImageRequest,
    knobs: Knobs,
    size: tuple[int, int],
    base: str,
    adapter: str | Mapping[str, object] | None,
    *,
    facts: Mapping[str, object] | None = None,
) -> str:
    """Format all settings of an image as A1111's web UI writes them, which many tools read.

    Arguments:
        request: prompt and seed.
        knobs: the knobs, with their solver.
        size: height and width in pixels.
        base: name of the base model.
        adapter: name of the adapter, or what is said of several; None where there is none.
        facts: how prompts are read (`Generator.reading`), and the start (`StartImage.facts`).
    """
    settings: dict[str, object] = {
        "Steps": knobs.steps,
        "Sampler": knobs.solver,
        "CFG scale": knobs.guidance,
        "Seed": request.seed,
    }
    if knobs.true_guidance != 1:
        settings |= {"True CFG scale": knobs.true_guidance}
    settings |= {"Size": f"{size[1]}x{size[0]}", "Model": plain_name(base)}
    if isinstance(adapter, str):
        adapter = {"Adapter": adapter, "UNet scale": knobs.unet_scale, "Text encoder scale": knobs.text_scale}
    settings |= {key: plain_name(value) if isinstance(value, str) else value for key, value in (adapter or {}).items()}
    settings |= facts or {}
    negative = f"\nNegative prompt: {knobs.negative}" if knobs.negative else ""
    return f"{request.prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in settings.items())


def plain_name(name: str) -> str:
    """Write a name as every reader of these settings can: no comma, quote or backslash."""
    return name.replace("\\", "/").replace(",", " ").replace('"', " ")
