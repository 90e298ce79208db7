"""What an optimizer needs of other settings: learning rates that multiply, a constant schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from mascot.errors import UserError
from mascot.recipe.overrides import merge, nest
from mascot.training.optimizers import MIN_MULTIPLIER, OPTIMIZERS
from mascot.training.settings import TrainingSettings


def optimizer_needs(name: object, method: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """Collect the settings that come with an optimizer, which what is given overrides.

    Args:
        name: The optimizer, as the recipe names it.
        method: The method's settings, presets and defaults.
        given: The settings of the method that the user gave.
    """
    kind = next((kind for known, kind in OPTIMIZERS.items() if known == name), None)
    needs: dict[str, object] = {}
    if kind is not None and kind.constant:
        needs = {"training": {"lr_schedule": "constant"}}
    if kind is not None and kind.averages:
        needs = merge(needs, {"training": {"ema_decay": "none"}})
    if kind is not None and kind.multiplies:
        rate = next((rate for _, rate in rates_in(given, "") if rate >= MIN_MULTIPLIER), 1.0)
        for key, _ in rates_in(method, "method"):
            needs = merge(needs, nest(key.split("."), rate))
    return needs


def rates_in(settings: Mapping[str, object], path: str) -> Iterator[tuple[str, float]]:
    """List the learning rates in nested settings that are not 0, as dotted keys and values."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from rates_in(value, f"{path}.{key}")
        elif "learning_rate" in key and isinstance(value, int | float) and value:
            yield f"{path}.{key}", float(value)


def check_optimizer(training: TrainingSettings, method: BaseModel) -> None:
    """Check that an optimizer gets the learning rates and the schedule that it needs.

    Raises:
        UserError: it does not; the message names the settings, and what to give instead.
    """
    training.check()
    rates = dict(rates_in(method.model_dump(), "method"))
    if not OPTIMIZERS[training.optimizer].multiplies or (
        len(set(rates.values())) == 1 and min(rates.values()) >= MIN_MULTIPLIER
    ):
        return
    named = " and ".join(f"{key} = {rate:g}" for key, rate in rates.items())
    options = " ".join(f"--set {key}=1" for key in rates)
    raise UserError(
        f"{training.optimizer} finds the step size itself: each learning rate multiplies it, is usually 1 and must be "
        f"the same for all, not {named}; give {options}."
    )
