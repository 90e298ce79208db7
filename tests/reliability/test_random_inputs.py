"""Thousands of bad inputs at random: each ends soon, in one sentence, with nothing written."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from laws.bad_places import lay_out
from laws.test_bad_inputs import SENTENCE, changes, snapshot
from reliability.processes import REACHED, CommandProcess, Ending
from reliability.random_inputs import OWN, Attempt, kinds

KINDS = (
    "photos",
    "start_images",
    "captions",
    "metadata",
    "recipes",
    "overrides",
    "adapters",
    "bases",
    "prompts",
    "numbers",
    "places",
    "runs",
)
SAMPLE, ALL = 28, 182
"""Attempts of each kind: by default, and in the slow run."""
LIMIT = 20.0
"""Seconds after which an attempt counts as hanging."""
MEMORY = 4 << 30
"""Bytes that a bad input may make a command allocate."""


@dataclass(kw_only=True)
class Bench:
    """The folder in which attempts are made, and how they ended."""

    places: Path
    logs: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    refused: int = 0
    accepted: int = 0
    faults: list[str] = field(default_factory=list[str])
    """Attempts that ended otherwise, each with what it printed."""

    def attempt(self, attempt: Attempt) -> None:
        """Make one attempt and note how it ends."""
        attempt.lay_out(self.places)
        before = snapshot(self.places)
        ending = self.run(attempt)
        if ending.code in {0, REACHED}:
            self.accepted += 1
        else:
            self.refused += 1
            fault = describe_fault(ending) or describe_changes(before, snapshot(self.places))
            if fault:
                self.faults.append(f"{attempt!r}\n{fault}")
        self.clean()

    def run(self, attempt: Attempt) -> Ending:
        """Run its command up to where the long work begins."""
        process = CommandProcess(
            words=attempt.words,
            folder=self.places,
            log=self.logs / str(next(self.numbers)),
            until_work=True,
            memory=MEMORY,
        )
        return process.start().end(LIMIT)

    def clean(self) -> None:
        """Remove what this attempt made."""
        for path in self.places.iterdir():
            if path.name in {OWN, "out", "out.png", "temporary"}:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.places / "temporary").mkdir()


def describe_fault(ending: Ending) -> str:
    """Describe what is wrong with how a command ended; empty for exit code 2 and one sentence."""
    if ending.code is None:
        return f"still running after {LIMIT:.0f} s"
    if ending.code != 2:
        return f"exit code {ending.code}: {ending.stderr[-3000:]}"
    return "" if SENTENCE.fullmatch(ending.stderr) else f"not one sentence: {ending.stderr[-3000:]}"


def describe_changes(before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> str:
    """Describe which files were left behind or changed; empty for none."""
    changed = changes(before, after)
    return f"written: {changed}" if changed else ""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Bench:
    """The folder with everything that the attempts name, and a trained run."""
    places = tmp_path_factory.mktemp("places")
    lay_out(places, tiny_base)
    shutil.rmtree(places / "bad")
    (places / "temporary").mkdir()
    words = ["train", "photos", "--base", "base", "--out", "trained", "--set", "prior.count=0", "--set", "device=cpu"]
    words += ["--steps", "4", "--set", "training.checkpoint_every=2", "--set", "selection.active=false"]
    words += ["--set", "diagnosis.active=false", "--set", "previews.every=0", "--set", "knobs.steps=1"]
    logs = tmp_path_factory.mktemp("logs")
    ending = CommandProcess(words=words, folder=places, log=logs / "trained").start().end(300)
    assert ending.code == 0, ending.stderr
    return Bench(places=places, logs=logs)


def run_attempts(bench: Bench, kind: str, count: int, start: int) -> None:
    """Make many attempts of a kind; many must be refused, or they would not be bad inputs."""
    bench.refused, bench.accepted, bench.faults = 0, 0, []

    @seed(start)
    @settings(max_examples=count, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
    @given(kinds(bench.places)[kind]())
    def make(attempt: Attempt) -> None:
        bench.attempt(attempt)

    make()
    print(f"{kind}: {bench.refused} refused, {bench.accepted} usable after all")  # noqa: T201 - the counts are a result
    assert not bench.faults, f"{len(bench.faults)} faults:\n" + "\n\n".join(bench.faults[:20])
    assert bench.refused >= count / 5


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "start_images"])
def test_a_bad_input_ends_in_one_sentence(bench: Bench, kind: str) -> None:
    run_attempts(bench, kind, SAMPLE, start=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_bad_inputs_end_in_one_sentence(bench: Bench, kind: str) -> None:
    run_attempts(bench, kind, ALL, start=1)
