"""Which knobs an adapter can use: one that changes nothing is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.sides import DENOISER, TEXT_ENCODERS
from mascot.errors import UserError
from mascot.generation.knobs import Knobs
from mascot.methods.registry import changes_of

SCALED: Mapping[str, str] = {"unet_scale": DENOISER, "text_scale": TEXT_ENCODERS}
"""Knob -> the side of the base whose part of the adapter it scales."""
OTHER: Mapping[str, str] = {"unet_scale": "text_scale", "text_scale": "unet_scale"}


def as_option(knob: str) -> str:
    """Write a knob as an option of the command line."""
    return f"--{knob.replace('_', '-')}"


def check_knobs(
    adapter: Adapter, given: Mapping[str, object], knobs: Knobs, *, write: Callable[[str], str] = as_option
) -> None:
    """Refuse knobs that the user gave and that change nothing.

    Arguments:
        adapter: the adapter that generates.
        given: the knobs that the user gave, with their values.
        knobs: all knobs, the given ones among them.
        write: names a knob in the message.

    Raises:
        UserError: the adapter does not change what a scale would scale, or a negative prompt is
            given without guidance.
    """
    changed = changes_of(adapter.manifest.method if adapter.manifest else None)(adapter.tensors)
    for knob, side in SCALED.items():
        if knob in given and side not in changed:
            other = write(OTHER[knob])
            raise UserError(
                f"{write(knob)} has no effect, as this adapter changes nothing in the base's {side}; "
                f"leave it out, or give {other}."
            )
    if given.get("negative") and knobs.guidance == 1:
        raise UserError(
            f"{write('negative')} has no effect at a guidance scale of 1; leave it out, or give another "
            f"{write('guidance')}, such as 5."
        )


def check_knob_axes(adapter: Adapter, over: Mapping[str, Sequence[object]], settings: Sequence[Knobs]) -> None:
    """Refuse axes of a grid along which no image changes.

    `settings` are the knobs of all cells.

    Raises:
        UserError: see `check_knobs`; an axis is refused where no cell can use it.
    """
    for knob in over:
        refusals: list[UserError] = []
        for knobs in settings:
            try:
                check_knobs(adapter, {knob: getattr(knobs, knob, None)}, knobs, write=str)
            except UserError as error:
                refusals.append(error)
        if refusals and len(refusals) == sum(bool(getattr(knobs, knob, None)) for knobs in settings):
            raise refusals[0]
