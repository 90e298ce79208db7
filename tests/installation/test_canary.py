"""Laws of the canary: it finds what changes training, and nothing else; its numbers are present.

Its numbers are recorded by `python -m starter_training canary`, whenever the starter's weights
change.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mascot.api.installation import canary, check_machine, package_versions, torch_build
from mascot.api.installation.canary import CanaryNumbers, CanaryRecord, digest_of_starter
from mascot.errors import UserError
from starter_training.export import canary_record
from starter_training.export.planted_faults import FAULTS
from tiny.commands import Command

RECORD_AGAIN = "run `python -m starter_training canary`"


@pytest.fixture(scope="module")
def record() -> CanaryRecord:
    """The stored numbers."""
    return CanaryRecord.read(canary.RECORD)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wide lines, and a cache of the test's own."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))


def test_the_numbers_are_of_the_packaged_base(record: CanaryRecord) -> None:
    assert record.trained_on == digest_of_starter(), RECORD_AGAIN


def test_every_planted_fault_was_found_and_no_harmless_change(record: CanaryRecord) -> None:
    """Harmless changes stay at a quarter of the tolerances, or below, when they are recorded."""
    assert set(record.faults) == set(FAULTS), RECORD_AGAIN
    assert set(record.variations) == set(canary_record.VARIATIONS)
    assert [name for name, found in record.faults.items() if not record.exceeded(found)] == []
    assert set(record.tolerances) == {"loss", "gradient norm", "weight change", "image"}
    for found in record.variations.values():
        for measure, tolerance in record.tolerances.items():
            assert found[measure] <= tolerance / 3


def test_the_record_is_of_training_that_moves(record: CanaryRecord) -> None:
    numbers = record.numbers
    assert len(numbers.losses) == len(numbers.gradient_norms) == canary.STEPS
    assert set(numbers.weight_changes) == {"unet", "text_encoder"}
    assert min(numbers.weight_changes.values()) > 0.01
    assert len(numbers.image) == 3 * canary.THUMBNAIL**2
    assert len(set(numbers.image)) > 20
    assert max(numbers.gradient_norms) > 1, "no step is clipped, so a fault in clipping would not be found"


def changed(numbers: CanaryNumbers, **values: object) -> CanaryNumbers:
    """The same numbers with some replaced."""
    return CanaryNumbers.model_validate({**numbers.model_dump(), **values})


def test_each_kind_of_number_is_compared(record: CanaryRecord) -> None:
    numbers = record.numbers
    assert record.exceeded(numbers.deviations(numbers)) == []
    more, fewer = 1 + 2 * max(record.tolerances.values()), numbers.losses[:-1]
    for name, measure in (("losses", "loss"), ("gradient_norms", "gradient norm")):
        values = list(getattr(numbers, name))
        values[4] *= more
        assert record.exceeded(changed(numbers, **{name: values}).deviations(numbers)) == [measure]
    moved = {**numbers.weight_changes, "unet": numbers.weight_changes["unet"] * more}
    assert record.exceeded(changed(numbers, weight_changes=moved).deviations(numbers)) == ["weight change"]
    image = [255 - level for level in numbers.image]
    assert record.exceeded(changed(numbers, image=image).deviations(numbers)) == ["image"]
    assert record.exceeded(changed(numbers, losses=fewer).deviations(numbers)) == ["loss"]
    assert record.exceeded(dict.fromkeys(record.tolerances, math.nan)) == list(record.tolerances)


def planted_numbers(monkeypatch: pytest.MonkeyPatch, record: CanaryRecord, factor: float) -> None:
    """Let training come to other losses at once."""
    losses = [factor * loss for loss in record.numbers.losses]
    monkeypatch.setattr(canary, "run_canary", lambda *_: (changed(record.numbers, losses=losses), 0.5))


def test_a_deviation_is_an_error_with_a_command(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, record: CanaryRecord
) -> None:
    """It installs the tested versions, or where these are installed, writes a report."""
    planted_numbers(monkeypatch, record, 1.5)
    code, printed, errors = mascot("doctor")
    assert code == 2
    assert "differs from the stored numbers" in printed
    assert "loss 0.5 (at most " in printed
    assert errors == (
        "mascot: Training on cpu computes something else than it did when mascot was tested: loss differ by more than "
        "rounding. Report it with `mascot doctor --report FILE`; --no-measure leaves the canary out.\n"
    )
    monkeypatch.setattr(check_machine, "tested_versions", lambda: {"torch": "2.0", "numpy": "1.9", "rich": "1.0"})
    _, _, errors = mascot("doctor")
    assert errors.endswith("Run pip install torch==2.0 numpy==1.9, and this command again.\n")


def test_a_deviation_on_an_accelerator_is_a_warning(monkeypatch: pytest.MonkeyPatch, record: CanaryRecord) -> None:
    """The tolerances were measured on CPUs."""
    planted_numbers(monkeypatch, record, 1.5)
    found = check_machine.check_training("cuda", "fp32").findings
    assert [finding.severity for finding in found] == ["error", "warning"]
    assert found[1].message.startswith("Training on cuda")


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (UserError("x is damaged; give y."), "The canary did not train.", "X is damaged; give y."),
        (MemoryError(), "There is too little memory for the canary.", "Close other programs, "),
        (AttributeError("no attribute 'z'"), "The canary failed with AttributeError: no attribute 'z'.", "Report it"),
    ],
)
def test_whatever_breaks_training_is_found(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, remedy: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(canary, "run_canary", fail)
    [finding] = check_machine.check_training("cpu", "fp32").findings
    assert finding.severity == "error"
    assert finding.message == said
    assert finding.remedy.startswith(remedy)


def test_numbers_of_another_base_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "digest_of_starter", lambda: "other")
    [finding] = check_machine.check_training("cpu", "fp32").findings
    assert finding.remedy.startswith("The embedded base is not the one that the numbers are of; reinstall mascot ")


def test_training_on_this_machine_is_what_was_recorded(mascot: Command) -> None:
    """Ten steps and an image by the command, within the tolerances."""
    code, printed, errors = mascot("doctor")
    assert (code, errors) == (0, ""), RECORD_AGAIN
    assert "as stored" in printed
    assert printed.endswith("mascot works on this machine.\n")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_finds_a_planted_fault(mascot: Command, fault: str) -> None:
    with FAULTS[fault]():
        code, printed, errors = mascot("doctor")
    assert code == 2
    assert "differs from the stored numbers" in printed
    assert errors.startswith("mascot: Training on cpu computes something else than it did when mascot was tested: ")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_and_threads_make_no_difference(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, precision: str, threads: int
) -> None:
    found = torch_build.check_device()[0]
    monkeypatch.setattr(torch_build, "check_device", lambda: (found, "cpu", precision))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        code, printed, errors = mascot("doctor")
    finally:
        torch.set_num_threads(before)
    assert (code, errors) == (0, "")
    assert f"ten steps on cpu in {precision}" in printed


@pytest.mark.slow
def test_the_numbers_are_recorded_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: CanaryRecord
) -> None:
    """It writes what is stored, and refuses to write where a fault would not be found."""
    from typer.testing import CliRunner

    from starter_training.cli import app

    kept = ("a skipped optimizer step",)
    monkeypatch.setattr(canary_record, "FAULTS", {name: FAULTS[name] for name in kept})
    monkeypatch.setattr(canary_record, "VARIATIONS", {"bfloat16, 1 thread": ("bf16", 1)})
    made = CliRunner().invoke(app, ["canary", "--out", str(tmp_path / "canary.json")])
    assert made.exit_code == 0, made.output
    assert "a skipped optimizer step" in made.output
    again = CanaryRecord.read(tmp_path / "canary.json")
    assert record.exceeded(again.numbers.deviations(record.numbers)) == []
    assert again.trained_on == record.trained_on

    monkeypatch.setattr(canary_record, "MULTIPLE", 10_000.0)
    refused = CliRunner().invoke(app, ["canary", "--out", str(tmp_path / "wide.json")])
    assert refused.exit_code == 1
    assert "the canary would not find a skipped optimizer step" in str(refused.exception or refused.output)
    assert not (tmp_path / "wide.json").exists()


def test_versions_at_recording_are_those_of_the_constraints(record: CanaryRecord) -> None:
    tested = package_versions.tested_versions()
    assert record.recorded_with == {name: tested[name] for name in record.recorded_with}, RECORD_AGAIN
