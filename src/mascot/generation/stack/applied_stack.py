"""Adapters applied to the stages of a base, beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mascot.adapters.adapter_file import Adapter, split_stages
from mascot.errors import UserError
from mascot.generation.stack.stacked_adapter import Stack, StackedAdapter
from mascot.methods.registry import restore_of
from mascot.protocols import AppliedAdapter, Family

NO_EFFECT = (
    "this adapter changes nothing, as every layer's change is 0; train it again, longer or at higher learning rates."
)


class NoEffectError(UserError):
    """An adapter of which nothing would be seen in any image."""


Applied = tuple[AppliedAdapter | None, ...]
"""What is applied of an adapter to each stage; None where it changes nothing."""


@dataclass(frozen=True, slots=True)
class AppliedStack:
    """Adapters that are applied to the stages of a base."""

    family: Family
    adapters: tuple[tuple[StackedAdapter, Applied], ...] = ()

    def scale(self, unet_scale: float, text_scale: float) -> None:
        """Set the strengths of all adapters, each times its own scales."""
        for one, applied in self.adapters:
            for stage, of_stage in zip(self.family.stages, applied, strict=True):
                if of_stage is not None:
                    others = [part for part in stage.parts if part != stage.denoiser]
                    scales = {stage.denoiser: unet_scale * one.unet_scale}
                    of_stage.scale(scales | dict.fromkeys(others, text_scale * one.text_scale))

    def remove(self) -> None:
        """Remove all adapters, which leaves the base model."""
        for _, applied in self.adapters:
            remove_all(applied)

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield each layer's name and how far each adapter changes it (see `AppliedAdapter`)."""
        for _, applied in self.adapters:
            yield from layer_changes(applied)


def apply_stack(stack: Stack, family: Family) -> AppliedStack:
    """Apply adapters to every stage that they change.

    While one is added, those before it are at strength 0, so that each sees the base model.

    Raises:
        UserError: one does not fit the base; then none is applied.
    """
    done = AppliedStack(family)
    for one in stack:
        try:
            check_base(one.adapter, family, one.place)
            done.scale(0.0, 0.0)
            done = AppliedStack(family, (*done.adapters, (one, apply_adapter(one.adapter, family))))
        except UserError as error:
            done.remove()
            if len(stack) == 1 or one.place in str(error):
                raise
            raise UserError(f"{one.place}: {error}") from error
    return done


def apply_adapter(adapter: Adapter, family: Family) -> Applied:
    """Apply an adapter to every stage that it changes, beside others; the other stages give None.

    Raises:
        UserError: the adapter does not fit, or changes nothing; it is then applied to no stage.
    """
    restore = restore_of(adapter.manifest.method if adapter.manifest else None)
    shares = split_stages(adapter.tensors, adapter.metadata, len(family.stages))
    applied: list[AppliedAdapter | None] = []
    try:
        for number, (stage, (tensors, metadata)) in enumerate(zip(family.stages, shares, strict=True)):
            # The first stage's method refuses an adapter without any tensor.
            changes_stage = tensors or (number == 0 and not adapter.tensors)
            applied.append(restore(stage, tensors, metadata) if changes_stage else None)
        if not any(change for _, change in layer_changes(applied)):
            raise NoEffectError(NO_EFFECT)
    except UserError:
        remove_all(applied)
        raise
    return tuple(applied)


def layer_changes(applied: Iterable[AppliedAdapter | None]) -> Iterator[tuple[str, float]]:
    """Yield each layer's name and how far an adapter changes it, of all stages."""
    for one in applied:
        if one is not None:
            yield from one.changes()


def remove_all(applied: Iterable[AppliedAdapter | None]) -> None:
    """Remove what is applied of an adapter to the stages."""
    for one in applied:
        if one is not None:
            one.remove()


def check_base(adapter: Adapter, family: Family, called: str = "this adapter") -> None:
    """Refuse an adapter of ours on another base, where it would silently generate nonsense.

    Raises:
        UserError: the adapter names another base.
    """
    manifest = adapter.manifest
    if manifest is not None and manifest.base_identity != family.identity:
        raise UserError(
            f"{called} was trained on {manifest.base} ({manifest.base_identity}), "
            f"not on this base ({family.identity}); "
            f"give --base {manifest.base} as it was then."
        )
