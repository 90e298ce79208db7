"""Laws of the leaderboard: runs that overlap share a rank, runs without the metric have none."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mascot.errors import UserError
from mascot.evaluation import scores
from mascot.evaluation.bootstrap import Interval, bootstrap, intervals_overlap
from mascot.experiments.leaderboard import Entry, Leaderboard, Measurement, metric_values
from mascot.experiments.leaderboard_page import leaderboard_page, leaderboard_table
from mascot.reports.page import write_page


def entry(name: str, *, low: float, high: float) -> Entry:
    return Entry(
        name=name,
        changes={"seed": name},
        scores={"likeness": Measurement(mean=(low + high) / 2, low=low, high=high, rows=9)},
    )


def ranks(*bounds: tuple[float, float], lowest: bool = False) -> dict[str, int | None]:
    entries = [entry(chr(ord("a") + i), low=low, high=high) for i, (low, high) in enumerate(bounds)]
    board = Leaderboard.of(entries, by="likeness", keys=["seed"], lowest=lowest)
    return {entry.name: entry.rank for entry in board.entries}


def test_ranks_are_shared_by_what_overlaps() -> None:
    assert ranks((0.1, 0.2), (0.3, 0.4), (0.35, 0.5)) == {"c": 1, "b": 1, "a": 3}
    assert ranks((0.1, 0.2), (0.3, 0.4), (0.35, 0.5), lowest=True) == {"a": 1, "b": 2, "c": 2}


def test_runs_tied_through_another_share_a_rank_and_name_those_clearly_better() -> None:
    entries = [entry("a", low=0.8, high=1.0), entry("b", low=0.5, high=0.85), entry("c", low=0.3, high=0.6)]
    board = Leaderboard.of(entries, by="likeness", keys=["seed"])
    assert [(one.name, one.rank, one.behind) for one in board.entries] == [("a", 1, ()), ("b", 1, ()), ("c", 1, ("a",))]
    assert board.best == board.entries


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 1)), min_size=1, max_size=8), st.booleans())
def test_different_ranks_never_overlap(pairs: list[tuple[float, float]], lowest: bool) -> None:  # noqa: FBT001 - hypothesis
    entries = [entry(str(i), low=at, high=at + width) for i, (at, width) in enumerate(pairs)]
    board = Leaderboard.of(entries, by="likeness", keys=[], lowest=lowest)
    assert board.entries[0].rank == 1
    means = [one.scores["likeness"].mean or 0.0 for one in board.entries]
    assert means == sorted(means, reverse=not lowest)
    for one in board.entries:
        for other in board.entries:
            first, second = one.scores["likeness"].interval, other.scores["likeness"].interval
            assert first is not None
            assert second is not None
            assert one.rank == other.rank or not intervals_overlap(first, second)
            assert (other.name in one.behind) <= (not intervals_overlap(first, second))


def test_without_intervals_nothing_is_called_different() -> None:
    entries = [Entry(name=str(i), changes={}, scores={"likeness": Measurement.of(float(i))}) for i in range(3)]
    board = Leaderboard.of(entries, by="likeness", keys=[])
    assert [(one.name, one.rank) for one in board.entries] == [("2", 1), ("1", 1), ("0", 1)]


def test_a_measurement_averages_its_rows() -> None:
    interval = bootstrap([0.1, 0.2, 0.4], seed=0)
    assert Measurement.of([0.1, 0.2, math.nan, 0.4]) == Measurement.of([0.1, 0.2, 0.4])
    assert Measurement.of([0.1, 0.2, 0.4]).interval == interval
    assert Measurement.of([0.1, 0.2, 0.4]).rows == 3
    assert Measurement.of(0.5).interval == Interval(0.5)
    assert all(
        Measurement.of(absent) == Measurement() for absent in (None, math.nan, math.inf, (), (math.nan, math.inf))
    )


def test_an_evaluation_is_ranked_by_its_prompts() -> None:
    prompts = [SimpleNamespace(values={"clip_t": 0.2}), SimpleNamespace(values={"identity": 0.5, "clip_t": 0.4})]
    values = {metric: scores.Score(value=0.3) for metric in scores.METRICS} | {
        "copying": scores.Score(value=None, reason="one photo")
    }
    found = metric_values(scores.Scores.model_construct(prompts=tuple(prompts), values=values))
    assert found.keys() == scores.METRICS.keys()
    assert found["clip_t"] == [0.2, 0.4]
    assert found["identity"] == [0.5]
    assert found["drift"] == 0.3
    assert Measurement.of(found["copying"]) == Measurement()


def test_a_run_without_the_metric_has_no_rank_and_comes_after_the_others() -> None:
    failed = Entry(name="failed", changes={}, failure="no memory")
    absent = Entry(name="absent", changes={}, scores={"likeness": Measurement()})
    board = Leaderboard.of([failed, absent, entry("good", low=0.1, high=0.2)], by="likeness", keys=["seed"])
    assert [(one.name, one.rank) for one in board.entries] == [("good", 1), ("absent", None), ("failed", None)]
    table = leaderboard_table(board)
    assert [row[0] for row in table.rows] == ["1", "none", "failed"]
    assert "not computed" in table.rows[1]
    assert any(note.endswith("failed: no memory") for note in table.notes)
    assert "nan" not in str(table)


def test_a_metric_that_nothing_was_scored_by_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'likeness'"):
        Leaderboard.of([entry("a", low=0, high=1)], by="likenes", keys=[])


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    board = Leaderboard.of(
        [entry("a", low=0.1, high=0.2), Entry(name="b", changes={"seed": None}, failure="so")],
        by="likeness",
        keys=["seed"],
    )
    board.write(tmp_path / "leaderboard.json")
    assert Leaderboard.read(tmp_path / "leaderboard.json") == board
    (tmp_path / "leaderboard.json").write_text("{")
    with pytest.raises(UserError, match="run the sweep again"):
        Leaderboard.read(tmp_path / "leaderboard.json")


def test_a_label_lists_the_changes() -> None:
    assert (
        Entry(name="a", changes={"method.rank": 4, "training.min_snr": None, "x": True}).label
        == "method.rank=4, training.min_snr=none, x=true"
    )


def test_the_table_has_the_ranking_metric_first_and_says_which_values_are_better() -> None:
    entries = [
        Entry(
            name=name,
            changes={"seed": name},
            scores={"clip_t": Measurement(mean=0.2), "drift": Measurement(mean=at, low=at, high=at, rows=2)},
        )
        for name, at in (("a", 0.3), ("b", 0.1))
    ]
    table = leaderboard_table(
        Leaderboard.of(entries, by="drift", keys=["seed"], lowest=True, scored_by="images of each prompt: 2")
    )
    assert table.title == "ranked by PRES - base (low is better)"
    assert table.head == ("rank", "seed", "PRES - base", "CLIP-T", "run")
    assert [row[:3] for row in table.rows] == [
        ("1", "b", "0.100 (0.100 to 0.100)"),
        ("2", "a", "0.300 (0.300 to 0.300)"),
    ]
    assert table.notes[0] == "images of each prompt: 2"
    assert not any("share a rank" in note for note in table.notes)
    assert leaderboard_table(Leaderboard.of(entries, by="drift", keys=["seed"]), metrics=["drift"]).head == (
        "rank",
        "seed",
        "PRES - base",
        "run",
    )


def test_a_clear_difference_within_a_rank_is_noted() -> None:
    entries = [entry("a", low=0.8, high=1.0), entry("b", low=0.5, high=0.85), entry("c", low=0.3, high=0.6)]
    notes = leaderboard_table(Leaderboard.of(entries, by="likeness", keys=["seed"])).notes
    assert any("share a rank" in note for note in notes)
    assert "seed=c is clearly worse than seed=a, though they share a rank" in notes


def test_the_page_shows_every_run_and_links_to_its_scores(tmp_path: Path) -> None:
    """Whatever a setting holds is text on the page."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("RGB", (400, 300), "blue").save(tmp_path / "grid.png")
    entries = [
        entry("a", low=0.1, high=0.2),
        Entry(name="b", changes={"seed": "<b>"}, failure="no memory"),
        Entry(name="c", changes={"seed": "c"}, scores={}),
    ]
    board = Leaderboard.of(entries, by="likeness", keys=["seed"])
    page = leaderboard_page(
        board, grid=tmp_path / "grid.png", images={"a": tmp_path / "a.png"}, links={"a": "runs/a/scores.html"}
    )
    write_page(page, tmp_path / "leaderboard.html")
    text = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert '<a href="runs/a/scores.html">seed=a</a>' in text
    assert text.count('<a href="runs/') == 1
    assert "seed=&lt;b&gt;" in text
    assert "<b>" not in text
    assert "failed: no memory" in text
    assert "not scored" in text
    assert text.count("<img") == 2
    assert text.count('class="full"') == 1
    assert 'width="400" height="300"' in text, "the grid is not reduced"
    without = leaderboard_page(board, grid=None, images={}, links={})
    assert [section.id for section in without.sections] == ["leaderboard", "runs"]
