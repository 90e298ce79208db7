"""Laws of the study's replay: every table has its place, and verdicts follow the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import study, study_runs, study_scores
from benchmarks.study import TABLES, replace_tables, write_tables
from benchmarks.study_observations import MISSING, OBSERVATIONS, better, guidance, more_steps, observations_table
from benchmarks.study_runs import RUNS, caption_photos, recipe_of
from benchmarks.study_scores import ADAPTER_SCALES, GUIDANCES, PROMPTS, TEXT_SCALES

if TYPE_CHECKING:
    from tiny.commands import Command

DOCS = Path(__file__).resolve().parents[2] / "docs" / "study.md"


def numbers(score: float = 0.5) -> dict[str, float]:
    return {
        "likeness": 0.6,
        "prompt_fidelity": 0.4,
        "likeness_gain": score,
        "prompt_kept": 0.8,
        "copying": 0.0,
        "score": score,
    }


def measurements() -> dict[str, Any]:
    """Measurements as the script keeps them: every score is 0.5, but guidance 11.8 is best."""
    return {
        "runs": [
            {"run": name, "about": one.about, "step": step, **numbers()}
            for name, one in RUNS.items()
            for step in one.steps
        ],
        "prompts": [
            {
                "prompt": one.text,
                "verdict": one.verdict,
                "simple": one.simple,
                "guidance": one.guidance,
                "unet_scale": one.unet_scale,
                "text_scale": one.text_scale,
                "study": numbers(),
                "own": numbers(),
                "base": {"prompt_fidelity": 0.3, "noise": 0.1},
            }
            for one in PROMPTS
        ],
        "guidance": [
            {"guidance": value, **numbers(0.7 if value == 11.8 else 0.5), "black": 0.2} for value in GUIDANCES
        ],
        "scales": [
            {"unet_scale": unet, "text_scale": text, **numbers()} for unet in ADAPTER_SCALES for text in TEXT_SCALES
        ],
        "word_order": {"by_order": 0.1, "by_seed": 0.4},
    }


def test_every_table_has_its_place_in_the_page() -> None:
    text = DOCS.read_text(encoding="utf-8")
    made = {name: make(measurements()) for name, make in TABLES.items()}
    written = replace_tables(text, made)
    assert all(table in written for table in made.values())
    assert replace_tables(written, made) == written
    for said in OBSERVATIONS:
        assert f"| {said} |" in text, "the page was not written by this version of the script"
    assert set(write_tables({}).values()) >= {"Not measured yet."}
    assert write_tables({"guidance": measurements()["guidance"]})["guidance"] == made["guidance"]
    with pytest.raises(ValueError, match="there is no <!-- runs: begin -->"):
        replace_tables("", {"runs": ""})


def test_verdicts_follow_the_numbers() -> None:
    assert (better(0.5, 0.4), better(0.4, 0.5), better(0.5, 0.51)) == ("agrees", "does not agree", "no difference")
    found = measurements()
    assert guidance(found).verdict == "agrees"
    found["guidance"][2] |= numbers(0.9)
    assert guidance(found).verdict == "does not agree"
    assert more_steps(found).verdict == "agrees"
    next(one for one in found["runs"] if one["step"] == 600)["score"] = 0.6
    assert more_steps(found).verdict == "does not agree"
    found["runs"] = [one for one in found["runs"] if one["run"] == "study"]
    rows = {said: verdict for said, _, verdict in observations_table(found)[1]}
    assert rows["captions look better"] == f"**{MISSING}**"
    assert rows["500 steps are better than 300"] != f"**{MISSING}**"


def test_the_runs_have_the_settings_of_the_study() -> None:
    recipe = recipe_of(RUNS["batch_10"], Path("photos"))
    assert (recipe.seed, recipe.training.batch_size, recipe.training.steps) == (123, 10, 100)
    assert recipe_of(RUNS["study"], Path("photos")).model_dump()["method"]["text_learning_rate"] == 1e-5


def test_captions_lie_beside_copies_of_the_photos(tmp_path: Path) -> None:
    caption_photos(tmp_path)
    assert (tmp_path / "5.txt").read_text(encoding="utf-8") == "a {subject} on a beach"
    assert len(list(tmp_path.iterdir())) == 12


@pytest.mark.slow
def test_the_replay_runs_from_the_photos_to_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps; the observations are of certain steps, so their table is left out."""
    few = ("knobs.steps=1", "training.checkpoint_every=1", "token=sks", "dataset.resolution=64")
    given = tuple(one for one in study_runs.STARTER if one.partition("=")[0] not in {o.partition("=")[0] for o in few})
    monkeypatch.setattr(study_runs, "STARTER", (*given, *few))
    short = {name: replace(one, steps=tuple(range(1, len(one.steps) + 1))) for name, one in RUNS.items()}
    for module in (study, study_runs, study_scores):
        monkeypatch.setattr(module, "RUNS", short)
    measured = study.measure(tmp_path, 1)
    assert json.loads((tmp_path / "measured_1.json").read_text(encoding="utf-8")) == measured
    assert study.measure(tmp_path, 1) == measured
    assert len(measured["runs"]) == sum(len(one.steps) for one in RUNS.values())
    for name, make in TABLES.items():
        if name != "observations":
            assert make(measured).count("\n") >= 5


@pytest.mark.slow
def test_the_recipe_is_one_that_the_commands_take(
    mascot: Command, tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the study's own optimizer; a tiny base of the same kind stands in for its own."""
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))
    given = [str(home / "photos"), "--recipe", str(study_runs.FILE), "--base", str(tiny_base)]
    code, printed, errors = mascot("doctor", *given, "--no-measure")
    assert code == 0, errors
    for words in ("0.0003", "1e-05", "123", "adamw8bit", "cinnamoroll", "500", "constant"):
        assert words in printed, printed
    small = "training.steps=2 dataset.resolution=32 precision=fp32 device=cpu knobs.steps=1 previews.every=0"
    settings = [f"--set={one}" for one in (*small.split(), "report.images=0", "diagnosis.active=false")]
    code, _, errors = mascot("train", *given, *settings, "--out", tmp_path / "run")
    assert code == 0, errors
    assert (tmp_path / "run" / "adapter.safetensors").exists()
