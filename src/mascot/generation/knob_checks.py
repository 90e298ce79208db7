"""Which knobs an adapter can use: one that changes nothing is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.sides import DENOISER, TEXT_ENCODERS
from mascot.errors import UserError
from mascot.generation.knobs import Knobs
from mascot.generation.stack.adapter_sources import AdapterSource
from mascot.generation.stack.stacked_adapter import Stack
from mascot.methods.registry import changes_of
from mascot.models.families.registry import embeds_guidance

SCALED: Mapping[str, str] = {"unet_scale": DENOISER, "text_scale": TEXT_ENCODERS}
"""Knob -> the side of the base whose part of the adapter it scales."""
OTHER: Mapping[str, str] = {"unet_scale": "text_scale", "text_scale": "unet_scale"}


def as_option(knob: str) -> str:
    """Write a knob as an option of the command line."""
    return f"--{knob.replace('_', '-')}"


def check_guidance(base: str, given: Collection[str], knobs: Knobs, *, write: Callable[[str], str] = as_option) -> None:
    """Refuse a negative prompt or true guidance that a base cannot use.

    Arguments:
        base: the base that generates.
        given: the knobs that the user gave.
        knobs: all knobs, the given ones among them.
        write: names a knob in the message.

    Raises:
        UserError: a negative prompt is given without classifier-free guidance, or true guidance on
            a base whose guidance scale is that already.
    """
    negative = "negative" in given and knobs.negative
    if not negative and ("true_guidance" not in given or knobs.true_guidance == 1):
        return
    if not embeds_guidance(base):
        if knobs.true_guidance != 1:
            raise UserError(
                f"{write('true_guidance')} is for bases that embed their guidance scale, and {base} does not: "
                f"its guidance is true guidance; give {write('guidance')} in its place."
            )
        if knobs.guidance == 1:
            raise UserError(
                f"{write('negative')} has no effect at a guidance scale of 1; leave it out, or give another "
                f"{write('guidance')}, such as 5."
            )
    elif knobs.true_guidance == 1:
        raise UserError(
            f"{write('negative')} has no effect on {base}, which embeds its guidance scale; leave it out, or give "
            f"{write('true_guidance')}, such as 4, which takes twice the time."
        )


def check_knobs(
    adapter: Adapter,
    given: Mapping[str, object],
    knobs: Knobs,
    *,
    base: str | None = None,
    write: Callable[[str], str] = as_option,
) -> None:
    """Refuse knobs that the user gave and that change nothing.

    Arguments:
        adapter: the adapter that generates.
        given: the knobs that the user gave, with their values.
        knobs: all knobs, the given ones among them.
        base: the base, in place of the one that the adapter names.
        write: names a knob in the message.

    Raises:
        UserError: the adapter does not change what a scale would scale, or the base cannot use a
            negative prompt or true guidance (see `check_guidance`).
    """
    changed = changes_of(adapter.manifest.method if adapter.manifest else None)(adapter.tensors)
    for knob, side in SCALED.items():
        if knob in given and side not in changed:
            other = write(OTHER[knob])
            raise UserError(
                f"{write(knob)} has no effect, as this adapter changes nothing in the base's {side}; "
                f"leave it out, or give {other}."
            )
    base = base or (adapter.manifest.base if adapter.manifest else None)
    if base is not None:
        check_guidance(base, given.keys(), knobs, write=write)


def check_stack_knobs(
    stack: Stack,
    given: Mapping[str, object],
    knobs: Knobs,
    *,
    base: str | None = None,
    write: Callable[[str], str] = as_option,
) -> None:
    """Refuse knobs that the user gave for one or several adapters and that are unclear or unused.

    The arguments are those of `check_knobs`.

    Raises:
        UserError: a scale stands behind an adapter's path and among the knobs, or is given for
            several adapters at once; or `check_knobs` would refuse a knob.
    """
    if len(stack) == 1:
        if both := [write(knob) for knob in stack[0].scales if knob in given]:
            raise UserError(
                f"{stack[0].place} has a scale behind it, and {' and '.join(both)} gives another; leave one out."
            )
        check_knobs(stack[0].adapter, given, knobs, base=base, write=write)
        return
    if unclear := [write(knob) for knob in SCALED if knob in given]:
        raise UserError(
            f"{unclear[0]} is for one adapter, and {len(stack)} are given; write a scale behind each, such as "
            f"{stack[0].place}:0.8."
        )
    bases = [one.adapter.manifest.base for one in stack if one.adapter.manifest]
    for name in [base] if base else bases[:1]:
        check_guidance(name, given.keys(), knobs, write=write)


def scales_of(source: AdapterSource, adapter: Adapter) -> dict[str, float]:
    """Return the scales behind an adapter's path as knobs; one number holds for all it changes.

    Raises:
        UserError: a scale has no effect.
    """
    changed = changes_of(adapter.manifest.method if adapter.manifest else None)(adapter.tensors)
    if len(source.scales) < len(SCALED):
        return {knob: scale for scale in source.scales for knob, side in SCALED.items() if side in changed}
    scales = dict(zip(SCALED, source.scales, strict=True))
    for knob, side in SCALED.items():
        if side not in changed:
            raise UserError(
                f"{source.text} gives a scale of the {side}, in which this adapter changes nothing; give one "
                f"scale, {source.place}:{scales[OTHER[knob]]:g}."
            )
    return scales


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
