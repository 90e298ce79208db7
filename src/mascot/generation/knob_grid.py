"""Generate one prompt over several values of up to three knobs, as one labeled grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from mascot.errors import UserError, suggest
from mascot.generation.generator import Generator
from mascot.generation.image_grid import (
    MOST_AXES,
    GridAxis,
    GridPosition,
    axes_text,
    compose,
    format_value,
    grid_positions,
)
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.storage.image_files import write_image, write_new_image


@dataclass(frozen=True, slots=True)
class KnobSetting:
    """One cell of a knob grid: its position, the image request and the knobs."""

    position: GridPosition
    request: ImageRequest
    knobs: Knobs


def plan_settings(over: Mapping[str, Sequence[object]], *, prompt: str, seed: int, knobs: Knobs) -> list[KnobSetting]:
    """Plan every combination of knob values; the first knob changes fastest.

    Arguments:
        over: knob to its values; `prompt` and `seed` may be varied as well.
        prompt: the prompt, where it is not varied.
        seed: the seed, where it is not varied.
        knobs: values of all other knobs.

    Raises:
        UserError: there is no axis or more than three, an axis is no knob or has no values, or a
            value is out of its range.
    """
    check_axes(over, [*Knobs.model_fields, "prompt", "seed"])
    settings: list[KnobSetting] = []
    for position in grid_positions([len(values) for values in over.values()]):
        chosen = {key: values[i] for i, (key, values) in zip(position, over.items(), strict=True)}
        request = ImageRequest(str(chosen.pop("prompt", prompt)), read_seed(chosen.pop("seed", seed)))
        try:
            settings.append(KnobSetting(position, request, Knobs.model_validate({**knobs.model_dump(), **chosen})))
        except ValidationError as error:
            raise UserError(
                "; ".join(f"{m['loc'][0]}={m['input']}: {m['msg']}" for m in error.errors()) + "."
            ) from None
    return settings


def check_axes(over: Mapping[str, Sequence[object]], known: Sequence[str]) -> None:
    """Refuse axes that no grid can have.

    Raises:
        UserError: there is no axis or more than three, an axis is not in `known`, or it has no
            values.
    """
    if not 1 <= len(over) <= MOST_AXES:
        raise UserError(
            f"an image grid has 1 to {MOST_AXES} axes, and {len(over)} are given; give --over once for each."
        )
    for key, values in over.items():
        if key not in known:
            raise UserError(f"{key} is not a knob{suggest(key, known)}")
        if not values:
            raise UserError(f"{key} has no values; give some, such as {key}=1,2.")


def read_seed(value: object) -> int:
    """Check a seed, and return it.

    Raises:
        UserError: it is not a whole number from 0.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UserError(f"seed={value}: a seed is a whole number from 0.")


def sweep_knobs(
    generator: Generator,
    over: Mapping[str, Sequence[object]],
    *,
    prompt: str,
    seed: int = 0,
    knobs: Knobs | None = None,
    out: Path,
    overwrite: bool = True,
    base: str,
    adapter: str | None = None,
) -> Path:
    """Generate one prompt over up to three knobs, and write the labeled grid as a PNG to `out`.

    `base` and `adapter` are their names in the PNG's settings text. All combinations are checked
    before any image is generated. Returns `out`, or `out` with a number where it is taken and may
    not be overwritten.

    Raises:
        UserError: see `plan_settings`; a size does not suit the base, a solver is unknown, or the
            grid cannot be written.
    """
    settings = plan_settings(over, prompt=prompt, seed=seed, knobs=knobs or Knobs())
    for setting in settings:
        check_setting(generator, setting)
    cells: dict[GridPosition, Image.Image | str] = {
        setting.position: next(generator.generate([setting.request], setting.knobs)) for setting in settings
    }
    axes = [GridAxis(key, tuple(map(format_value, values))) for key, values in over.items()]
    first = settings[0]
    resolved = generator.with_defaults(first.knobs)
    facts = generator.reading(first.request.prompt, resolved).facts
    written = settings_text(first.request, resolved, generator.size(resolved), base, adapter, facts=facts)
    text = f"{written}, {axes_text(axes)}"
    fixed = {"prompt": prompt, "seed": f"(seed {seed})"}
    grid = compose(axes, cells, title=" ".join(text for name, text in fixed.items() if name not in over))
    if not overwrite:
        return write_new_image(grid, out.parent, out.stem, text)
    write_image(grid, out, text)
    return out


def check_setting(generator: Generator, setting: KnobSetting) -> None:
    """Refuse a size or a solver that the base cannot use.

    Raises:
        UserError: it names the size or the solver.
    """
    resolved = generator.with_defaults(setting.knobs)
    height, width = generator.size(resolved)
    for stage in generator.family.stages:
        stage.solver(str(resolved.solver), resolved.steps, height, width)
