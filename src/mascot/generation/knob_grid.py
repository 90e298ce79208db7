"""TODO generation.knob_grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from mascot.errors import UserError, suggest
from mascot.generation.generator import Generator
from mascot.generation.image_grid import MOST_AXES, GridAxis, Place, axes_text, compose, places, written
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.storage.image_files import write_image


@dataclass(frozen=True, slots=True)
class KnobSetting:
    """One cell of a grid over knobs: what is drawn, and how."""

    place: Place
    request: ImageRequest
    knobs: Knobs


def plan_settings(over: Mapping[str, Sequence[Any]], *, prompt: str, seed: int, knobs: Knobs) -> list[KnobSetting]:
    """Every combination of knobs, the first one turning fastest; `seed` and `prompt` may be turned like knobs.

    Raises:
        UserError: there is no axis or more than three, one is no knob or has no values, or a value is out of its range.
    """
    check_axes(over, [*Knobs.model_fields, "prompt", "seed"])
    made: list[KnobSetting] = []
    for place in places([len(values) for values in over.values()]):
        chosen = {key: values[i] for i, (key, values) in zip(place, over.items(), strict=True)}
        request = ImageRequest(str(chosen.pop("prompt", prompt)), read_seed(chosen.pop("seed", seed)))
        try:
            made.append(KnobSetting(place, request, Knobs.model_validate({**knobs.model_dump(), **chosen})))
        except ValidationError as error:
            raise UserError(
                "; ".join(f"{m['loc'][0]}={m['input']}: {m['msg']}" for m in error.errors()) + "."
            ) from None
    return made


def check_axes(over: Mapping[str, Sequence[Any]], known: Sequence[str]) -> None:
    """Refuse axes that no grid can have."""
    if not 1 <= len(over) <= MOST_AXES:
        raise UserError(
            f"a picture grid has 1 to {MOST_AXES} axes, and {len(over)} are given; give --over once for each."
        )
    for key, values in over.items():
        if key not in known:
            raise UserError(f"{key} is not a knob{suggest(key, known)}")
        if not values:
            raise UserError(f"{key} has no values; give some, such as {key}=1,2.")


def read_seed(value: Any) -> int:
    """A seed, as the generator takes it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UserError(f"seed={value}: a seed is a whole number from 0.")


def sweep_knobs(
    generator: Generator, over: Mapping[str, Sequence[Any]], *, prompt: str, seed: int = 0, knobs: Knobs | None = None, out: Path,
    base: str, adapter: str | None = None,
) -> Path:  # fmt: skip
    """Draw one prompt and seed over up to three knobs and write the labelled grid as a PNG, which says what made it; returns `out`.

    `base` and `adapter` are what the picture's text calls them. Nothing is drawn before all combinations are known to be drawable sizes
    and values.

    Raises:
        UserError: see `plan_settings`; a size does not suit the base, a solver is unknown, or the picture cannot be written.
    """
    planned = plan_settings(over, prompt=prompt, seed=seed, knobs=knobs or Knobs())
    for turn in planned:
        settled = generator.with_defaults(turn.knobs)
        height, width = generator.size(settled)
        for stage in generator.family.stages:
            stage.solver(str(settled.solver), settled.steps, height, width)
    cells: dict[Place, Image.Image | str] = {
        turn.place: next(generator.generate([turn.request], turn.knobs)) for turn in planned
    }
    axes = [GridAxis(key, tuple(map(written, values))) for key, values in over.items()]
    first = planned[0]
    settled = generator.with_defaults(first.knobs)
    text = f"{settings_text(first.request, settled, generator.size(settled), base, adapter)}, {axes_text(axes)}"
    write_image(compose(axes, cells, title=f"{prompt} (seed {seed})"), out, text)
    return out
