"""Law of the estimate: it covers the whole command, and is within a third of the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.estimate import compare, seconds_in


@pytest.mark.slow
def test_the_estimates_are_within_a_third_of_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the starter, for `doctor` and for `train`; a busy machine gets a second try."""
    small = ("training.steps=30", "prior.count=8", "previews.every=15", "report.images=20", "selection.cost=2")
    for attempt in ("first", "second"):
        monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / attempt / "cache"))
        found = compare(small, tmp_path / attempt)
        ratios = found.doctor / found.truth, found.train / found.truth
        if all(2 / 3 < ratio < 4 / 3 for ratio in ratios):
            break
    else:
        pytest.fail(f"estimates are {ratios} of the truth: {found}")
    for row in found.rows:
        for part in ("training", "previews", "of the selection", "of the diagnosis", "of the report"):
            assert part in row
    assert "class images" in found.rows[0]


@pytest.mark.parametrize(("text", "seconds"), [("110 s", 110), ("4 minutes", 240), ("2.5 hours", 9000)])
def test_an_estimate_is_read_from_its_sentence(text: str, seconds: float) -> None:
    assert seconds_in(f"about {text} for the whole command: training 3 s") == seconds
