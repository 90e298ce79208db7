"""Record the numbers of the canary that `mascot doctor` compares with.

They are recorded in float32 on one thread. Then harmless changes are measured (another precision,
two threads), and faults are planted. A tolerance is a multiple of the largest harmless deviation;
the record is written if every fault exceeds one of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from mascot.api.installation.canary import (
    CanaryNumbers,
    CanaryRecord,
    Measure,
    digest_of_starter,
    run_canary,
)
from mascot.errors import UserError
from starter_training.export.planted_faults import FAULTS

MULTIPLE = 4.0
"""Tolerance over the largest harmless deviation: other processors round otherwise, too."""
LEAST: Mapping[Measure, float] = {"loss": 0.002, "gradient norm": 0.005, "weight change": 0.002, "image": 0.5}
"""Least tolerances, where the harmless changes made no difference: relative, and levels of 255."""
VARIATIONS: Mapping[str, tuple[str, int]] = {
    "float32, 2 threads": ("fp32", 2),
    "bfloat16, 1 thread": ("bf16", 1),
    "bfloat16, 2 threads": ("bf16", 2),
}
"""Harmless change -> precision and threads."""
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate")
DIGITS = 7


def record_canary(out: Path) -> str:
    """Record the numbers, and write them unless a fault is within the tolerances.

    Returns the deviations as a table.

    Raises:
        UserError: a fault would not be found.
    """
    numbers = numbers_on("fp32", 1)
    variations = {name: numbers_on(*given).deviations(numbers) for name, given in VARIATIONS.items()}
    faults: dict[str, dict[Measure, float]] = {}
    for name, plant in FAULTS.items():
        with plant():
            faults[name] = numbers_on("bf16", 1).deviations(numbers)
    record = CanaryRecord(
        trained_on=digest_of_starter(),
        recorded_with={name: version(name).partition("+")[0] for name in PACKAGES},
        numbers=rounded(numbers),
        tolerances=tolerances_of(variations),
        variations={name: rounded_deviations(found) for name, found in variations.items()},
        faults={name: rounded_deviations(found) for name, found in faults.items()},
    )
    table = describe(record)
    missed = [name for name, found in record.faults.items() if not record.exceeded(found)]
    if missed:
        raise UserError(f"{table}\nthe canary would not find {', '.join(missed)}; lower MULTIPLE, and measure why.")
    record.write(out)
    return table


def numbers_on(precision: str, threads: int) -> CanaryNumbers:
    """Run the canary on the CPU with a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run_canary(precision, "cpu")[0]
    finally:
        torch.set_num_threads(before)


def tolerances_of(variations: Mapping[str, Mapping[Measure, float]]) -> dict[Measure, float]:
    """Return each kind's tolerance: a multiple of its largest harmless deviation."""
    return {
        measure: float(f"{max(least, MULTIPLE * max(found[measure] for found in variations.values())):.2g}")
        for measure, least in LEAST.items()
    }


def rounded(numbers: CanaryNumbers) -> CanaryNumbers:
    """Round numbers to seven digits, which is more than the tolerances need."""
    return CanaryNumbers(
        losses=tuple(float(f"{loss:.{DIGITS}g}") for loss in numbers.losses),
        gradient_norms=tuple(float(f"{norm:.{DIGITS}g}") for norm in numbers.gradient_norms),
        weight_changes={name: float(f"{change:.{DIGITS}g}") for name, change in numbers.weight_changes.items()},
        image=numbers.image,
    )


def rounded_deviations(found: Mapping[Measure, float]) -> dict[Measure, float]:
    """Round deviations to two digits."""
    return {measure: float(f"{value:.2g}") for measure, value in found.items()}


def describe(record: CanaryRecord) -> str:
    """Write the tolerances and all deviations as a Markdown table."""
    measures = list(record.tolerances)
    rows = {"**tolerance**": record.tolerances, **record.variations, **record.faults}
    lines = [f"| | {' | '.join(measures)} |", f"|---|{'--:|' * len(measures)}"]
    lines += [
        f"| {name} | {' | '.join(json.dumps(row[measure]) for measure in measures)} |" for name, row in rows.items()
    ]
    return "\n".join(lines)
