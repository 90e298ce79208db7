"""The study's observations, each held against what was measured, with a verdict by a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

MARGIN = 0.02
"""Least difference of a score or a share that counts."""

AGREES, DIFFERS, SAME = "agrees", "does not agree", "no difference"
MISSING = "not measured yet"
"""Stands for what a run would say that was left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured, in one sentence without an end, and the verdict."""

    measured: str
    verdict: str


class NotMeasuredError(Exception):
    """A run was left out."""


def run_at(measured: Mapping[str, Any], run: str, step: int) -> float:
    """Return a run's score at a step.

    Raises:
        NotMeasuredError: it was left out.
    """
    for one in measured.get("runs", ()):
        if (one["run"], one["step"]) == (run, step):
            return float(one["score"])
    raise NotMeasuredError


def better(one: float, other: float) -> str:
    """Tell whether the study's claim that the first is better holds."""
    if abs(one - other) < MARGIN:
        return SAME
    return AGREES if one > other else DIFFERS


def more_steps(measured: Mapping[str, Any]) -> Finding:
    """Compare 500 steps with 600."""
    before, after = run_at(measured, "study", 500), run_at(measured, "study", 600)
    return Finding(
        f"score {before:.2f} at 500 steps, {after:.2f} at 600", AGREES if after - before < MARGIN else DIFFERS
    )


def fewer_steps(measured: Mapping[str, Any]) -> Finding:
    """Compare 300 steps with 500."""
    before, after = run_at(measured, "study", 300), run_at(measured, "study", 500)
    return Finding(f"score {before:.2f} at 300 steps, {after:.2f} at 500", better(after, before))


def text_rate(measured: Mapping[str, Any]) -> Finding:
    """Compare the text encoder's two rates."""
    low, high = run_at(measured, "study", 300), run_at(measured, "text_rate", 300)
    return Finding(f"score at 300 steps: {low:.2f} with 1e-5, {high:.2f} with 5e-5", better(low, high))


def high_rates(measured: Mapping[str, Any]) -> Finding:
    """Compare both rates with three times as much."""
    low, high = run_at(measured, "study", 300), run_at(measured, "high_rates", 300)
    return Finding(
        f"score at 300 steps: {low:.2f} with the study's rates, {high:.2f} with three times as much", better(low, high)
    )


def batch_ten(measured: Mapping[str, Any]) -> Finding:
    """Compare a batch of 10 with what the notebook made of it; agreement would be no difference."""
    real, made = run_at(measured, "batch_10", 100), run_at(measured, "tenth_rates", 100)
    one = run_at(measured, "study", 100)
    return Finding(
        f"score at 100 steps: {one:.2f} with batch 1, {real:.2f} with batch 10, {made:.2f} with batch 1 at a tenth of "
        "the rates",
        AGREES if abs(real - made) < MARGIN else DIFFERS,
    )


def captions(measured: Mapping[str, Any]) -> Finding:
    """Compare captions with none."""
    without, captioned = run_at(measured, "study", 300), run_at(measured, "captions", 300)
    return Finding(f"score at 300 steps: {without:.2f} without, {captioned:.2f} with", better(captioned, without))


def guidance(measured: Mapping[str, Any]) -> Finding:
    """Find the guidance scales with the highest likeness and the highest score."""
    likest = max(measured["guidance"], key=lambda one: one["likeness_gain"])
    best = max(measured["guidance"], key=lambda one: one["score"])
    inside = [9 <= one["guidance"] <= 15 for one in (likest, best)]
    return Finding(
        f"highest likeness at {likest['guidance']:g}, highest score at {best['guidance']:g}",
        AGREES if all(inside) else "agrees in part" if any(inside) else DIFFERS,
    )


def low_scales(measured: Mapping[str, Any]) -> Finding:
    """Compare UNet scale 0.5 and text scale 0.1 with the trained strength."""
    found = {(one["unet_scale"], one["text_scale"]): one["score"] for one in measured["scales"]}
    best = max(found, key=lambda pair: found[pair])
    return Finding(
        f"score {found[0.5, 0.1]:.2f} at 0.5 and 0.1, {found[1.0, 1.0]:.2f} at 1 and 1; the best is "
        f"{found[best]:.2f} at {best[0]:g} and {best[1]:g}",
        better(found[0.5, 0.1], found[1.0, 1.0]),
    )


def simple_objects(measured: Mapping[str, Any]) -> Finding:
    """Compare prompts of one thing with prompts of actions and of things worn."""
    sides = [
        fmean(one["own"]["score"] for one in measured["prompts"] if one["simple"] is simple) for simple in (True, False)
    ]
    return Finding(f"mean score {sides[0]:.2f} of simple prompts, {sides[1]:.2f} of the others", better(*sides))


def order_of_words(measured: Mapping[str, Any]) -> Finding:
    """Compare the distance by word order with that by seed."""
    found = measured["word_order"]
    return Finding(
        f"distance {found['by_order']:.2f} between the two orders, {found['by_seed']:.2f} between two seeds (CLIP-I)",
        AGREES if found["by_order"] > found["by_seed"] / 2 else DIFFERS,
    )


def black(measured: Mapping[str, Any]) -> Finding:
    """Find how much the CLIP-T of the black subject varies from guidance 9 to 15."""
    values = [one["black"] for one in measured["guidance"] if one["guidance"] >= 9]
    spread = max(values) - min(values)
    return Finding(
        f"CLIP-T {min(values):.2f} to {max(values):.2f} at guidance 9 to 15", AGREES if spread > MARGIN else DIFFERS
    )


def frog_cap(measured: Mapping[str, Any]) -> Finding:
    """Report the base's own image of the prompt beside noise; a weak CLIP sees a frog as a cap."""
    one = next(one for one in measured["prompts"] if "frog" in one["prompt"])
    return Finding(
        f"CLIP-T of the base alone {one['base']['prompt_fidelity']:.2f}, of noise {one['base']['noise']:.2f}, "
        f"with the study's knobs {one['study']['prompt_fidelity']:.2f}",
        "the starter cannot show it",
    )


OBSERVATIONS: Mapping[str, Callable[[Mapping[str, Any]], Finding]] = {
    "more than 500 steps does not help much": more_steps,
    "500 steps are better than 300": fewer_steps,
    "a larger learning rate is worse (text encoder: 5e-5)": text_rate,
    "a larger learning rate is worse (both, three times)": high_rates,
    '"batch 10 just averages"': batch_ten,
    "captions look better": captions,
    "guidance 9 to 15 looks truest": guidance,
    "UNet scale 0.5 and text scale 0.1 are good": low_scales,
    "simple objects come out best": simple_objects,
    "word order matters": order_of_words,
    "a black one depends on the guidance scale": black,
    "the frog-shaped cap never worked": frog_cap,
}
"""What the study observed -> what is measured of it."""


def observations_table(measured: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of the table of observations."""
    rows: list[tuple[str, ...]] = []
    for said, look in OBSERVATIONS.items():
        try:
            finding = look(measured)
        except (NotMeasuredError, KeyError):
            finding = Finding("-", MISSING)
        rows.append((said, finding.measured, f"**{finding.verdict}**"))
    return ("the study observed", "measured here, on the starter", "verdict"), rows
