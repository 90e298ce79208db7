"""Laws of comparisons, tables and pages.

Only runs that were evaluated alike are compared, in pairs. Tables and pages show everything, and
escape the user's words.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mascot.api.experiments.compare import compare
from mascot.cli import app
from mascot.errors import UserError
from mascot.evaluation.bootstrap import Interval
from mascot.evaluation.comparison import Difference, compare_scores
from mascot.evaluation.score_tables import comparison_table, means_table, runs_table, verdict
from mascot.evaluation.scores import METRICS, REFERENCES, Scores
from mascot.evaluation.scores_page import scores_page
from mascot.reports.page import write_page
from tiny.world import IMAGES, PROMPTS, World, mean, value


@pytest.fixture(scope="module")
def scores(world: World) -> Scores:
    """Evaluated once, with one photo held out."""
    return world.evaluate(photos=[world.folder / "photos"])


@pytest.fixture(scope="module")
def other(world: World) -> Scores:
    """Another run on the same photos."""
    return world.evaluate(world.write("other", seed=1), photos=[world.folder / "photos"])


def test_a_run_compared_with_itself_differs_in_nothing(scores: Scores) -> None:
    found = compare_scores([scores], [scores])
    for name, difference in found.differences.items():
        assert difference.one == difference.other == scores.values[name].value
        if difference.interval is None:
            assert difference.reason
        else:
            assert difference.interval.mean == 0


def test_differences_are_paired_by_prompt_and_seed(scores: Scores, other: Scores) -> None:
    found = compare_scores([scores], [other])
    assert found.rows == "prompts"
    for name in ("identity", "clip_t", "diversity", "copying"):
        differences = [a.values[name] - b.values[name] for a, b in zip(scores.prompts, other.prompts, strict=True)]
        interval = found.differences[name].interval
        assert interval is not None
        assert interval.mean == pytest.approx(mean(differences))
        assert (interval.low, interval.high) == pytest.approx((min(differences), max(differences)))  # of two rows
    drift = found.differences["drift"].interval
    assert drift is not None
    assert drift.mean == pytest.approx(value(scores, "drift") - value(other, "drift"))
    assert drift.low is None
    assert "2 prompts of one subject" in comparison_table(found).title


def test_several_subjects_are_rows_themselves(scores: Scores, other: Scores) -> None:
    found = compare_scores([scores, other], [other, scores])
    identity = found.differences["identity"]
    assert found.rows == "subjects"
    assert identity.interval is not None
    assert identity.interval.mean == pytest.approx(0)
    assert identity.interval.high == pytest.approx(abs(value(scores, "identity") - value(other, "identity")))
    assert "over 2 subjects" in comparison_table(found).title
    assert comparison_table(found).rows[0][-1] == "no significant difference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"first seeds \(0 and 5\)"),
        ({"images": 4}, r"images of each prompt \(2 and 4\)"),
        ({"class_noun": "cat"}, r"class nouns \(dog and cat\)"),
        ({"photos": ("0123",)}, r"photos to compare with \(3 and 1, such as "),
        (
            {"encoders": {"identity": "another", "clip": "", "distance": ""}},
            r"encoders of identity \(identity .* and another\) and in ",
        ),
    ],
    ids=str,
)
def test_only_runs_that_were_evaluated_alike_are_compared(scores: Scores, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare_scores([scores], [scores.model_copy(update=change)])


def test_other_prompts_are_named(scores: Scores) -> None:
    fewer = scores.model_copy(update={"prompts": scores.prompts[:1]})
    with pytest.raises(
        UserError, match=r"prompts \(2 and 1, such as 'a photo of a \{token\} \{class\} on the beach'\)"
    ):
        compare_scores([scores], [fewer])
    with pytest.raises(UserError, match=r"prompts \(2 and 2, in another order\)"):
        compare_scores([scores], [scores.model_copy(update={"prompts": scores.prompts[::-1]})])
    with pytest.raises(UserError, match="1 and 2 runs are not pairs"):
        compare_scores([scores], [scores, scores])


def test_tables_have_a_row_for_each_run_and_name_their_encoders(scores: Scores, other: Scores) -> None:
    table = runs_table([scores, other])
    assert [row[0] for row in table.rows] == [scores.name, other.name, "mean", *REFERENCES]
    assert {len(row) for row in table.rows} == {len(table.head)} == {len(METRICS) + 1}
    assert table.rows[0][1] == f"{value(scores, 'identity'):.3f}"
    assert table.rows[2][1] == f"{(value(scores, 'identity') + value(other, 'identity')) / 2:.3f}"
    for name, line in scores.encoders.items():
        assert f"{name}: {line}" in table.notes
    assert means_table([scores, other]).title.endswith("over 2 subjects")
    assert "2 prompts of one subject" in means_table([scores]).title


def test_pages_open_offline_and_hold_every_image(world: World, scores: Scores, other: Scores) -> None:
    assert other.prompts
    page = world.run.scores_page.read_text(encoding="utf-8")
    found = compare(world.run, world.folder / "other")
    beside = world.run.comparison("other").read_text(encoding="utf-8")
    assert found.rows == "prompts"
    extremes = 2 * 2 * (len(PROMPTS) * IMAGES // 2)
    assert page.count("<img ") == extremes + 2 * len(PROMPTS) * IMAGES
    assert beside.count("<img ") == 2 * len(PROMPTS) * IMAGES
    for text in (page, beside):
        assert set(re.findall(r"(?:src|href)=\"(data:image/|#|)", text)) == {"data:image/", "#"}
        assert "http" not in text.replace("http-equiv", "")
        assert "<script" not in text
        assert scores.encoders["identity"] in text


def test_pages_escape_the_user_s_words(world: World, scores: Scores, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(
        scores_page(scores.model_copy(update={"subject": "<b>sks</b>", "notes": ("R&D",)}), world.run.folder), path
    )
    text = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;sks" in text
    assert "<b>" not in text
    assert "R&amp;D" in text


def test_comparing_needs_an_evaluation(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was not evaluated yet; run `mascot evaluate .*fresh` first"):
        compare(world.run, world.write("fresh"))
    with pytest.raises(UserError, match="not a mascot run"):
        compare(tmp_path, world.run)


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        ("identity", Interval(0.2, 0.1, 0.3), "the first is better"),
        ("identity", Interval(-0.2, -0.3, -0.1), "the second is better"),
        ("preservation", Interval(0.2, 0.1, 0.3), "the second is better"),
        ("drift", Interval(-0.2, -0.3, -0.1), "the first is better"),
        ("nearest", Interval(0.2, 0.1, 0.3), "differs"),
        ("identity", Interval(0.2, -0.1, 0.3), "no significant difference"),
        ("identity", Interval(0.2), ""),
        ("identity", None, ""),
    ],
    ids=str,
)
def test_a_side_is_better_only_where_the_interval_excludes_zero(
    name: str, interval: Interval | None, expected: str
) -> None:
    assert verdict(name, Difference(one=0.5, other=0.3, interval=interval)) == expected


def mascot(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr(sys, "argv", ["mascot", *map(str, words)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert isinstance(stop.value.code, int)
    printed, errors = capfd.readouterr()
    return stop.value.code, printed, errors


def test_the_commands_print_what_was_measured(
    world: World, scores: Scores, other: Scores, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two runs share a table with a mean; each command prints its table and names its page."""
    encoders = ("--identity", world.identity, "--clip", world.clip, "--device", "cpu")
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    runs = world.run.folder, world.folder / "other"
    code, printed, errors = mascot(monkeypatch, capfd, "evaluate", *runs, *prompts, "--images", IMAGES, *encoders)
    assert (code, errors) == (0, "")
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert f"{value(scores, 'clip_t'):.3f}" in rows[str(runs[0])]
    assert f"{value(other, 'clip_t'):.3f}" in rows[str(runs[1])]
    assert "mean" in rows
    for line in (*scores.encoders.values(), f"report: {world.run.scores_page}"):
        assert line in printed
    code, printed, errors = mascot(monkeypatch, capfd, "compare", *runs, "--out", world.folder / "beside.html")
    assert (code, errors) == (0, "")
    assert f"report: {world.folder / 'beside.html'}" in printed
    assert (world.folder / "beside.html").is_file()
    code, printed, errors = mascot(monkeypatch, capfd, "evaluate", "--real", world.folder / "photos", *encoders)
    assert (code, errors) == (0, "")
    assert f"{value(scores, 'real_identity'):.3f}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "--real", "photos", "--prompt", "a {subject}"), "--real generates nothing"),
        (("evaluate", "--real", "nowhere"), "nowhere does not exist"),
        (("evaluate", "nowhere"), "nowhere does not exist"),
        (("evaluate", "photos"), "not a mascot run"),
        (("evaluate", "run", "run", "--photos", "photos"), "one run at a time"),
        (("evaluate", "run", "--images", "0"), "--images"),
        (("evaluate", "run", "--prompt", "a dog"), "does not name the subject"),
        (("compare", "run"), "missing argument"),
        (("compare", "photos", "run"), "not a mascot run"),
        (("compare", "nowhere.safetensors", "run"), "nowhere.safetensors does not exist"),
    ],
    ids=str,
)
def test_commands_that_cannot_run_say_what_to_do(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(world.folder)
    code, _, errors = mascot(monkeypatch, capfd, *words)
    assert code == 2
    assert errors.startswith("mascot: ")
    assert message.lower() in errors.lower()
