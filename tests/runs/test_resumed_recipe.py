"""A run is resumed with its own recipe: what may change does what it says, the rest is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mascot.recipe.changes import MAY_CHANGE, Change, list_changes, override
from mascot.recipe.mistakes import sections_of
from mascot.recipe.overrides import parse_overrides
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from runs.conftest import Mascot, Train, commands


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run."""
    return Run(Path(shutil.copytree(finished.folder, tmp_path / "run")))


def edit(run: Run, *pairs: tuple[str, str]) -> None:
    """Edit a run's recipe as a user does."""
    text = run.recipe.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    run.recipe.write_text(text, encoding="utf-8")


def test_every_setting_that_may_change_exists() -> None:
    known = {f"{section}.{key}".lstrip(".") for section, keys in sections_of(Recipe) for key in keys}
    assert {key for key in MAY_CHANGE if key not in known} == set()


@pytest.mark.parametrize(
    "value", ["a dog", "none", "true", "7", 7, 1e-3, True, None, ["a", "b"], [], "ö 'x' \"y\"", {"a": 1}, " x "]
)
def test_a_value_is_written_as_set_reads_it(value: object) -> None:
    read = parse_overrides([override("section.key", value)])
    assert read == {"section": {"key": None if value in (None, "none") else value}}


def test_changes_are_listed_by_key() -> None:
    before = {"a": {"b": 1, "c": {"d": 2}}, "e": "x", "gone": 1}
    now = {"a": {"b": 1.0, "c": {"d": 3}}, "e": {"f": 1}, "new": 1}
    assert list(list_changes(before, now)) == [Change("a.c.d", 2, 3), Change("e", "x", {"f": 1})]


def test_a_changed_recipe_is_refused_by_name_and_its_remedies_work(mascot: Mascot, run: Run, tmp_path: Path) -> None:
    before = run.adapter.read_bytes()
    edit(run, ("rank = 16", "rank = 8"), ("steps = 4", "steps = 6"), ("seed = 0\ndevice", "seed = 1\ndevice"))
    edited = run.recipe.read_bytes()
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert code == 2
    assert "method.rank from 16 to 8 and " in sentence or "seed from 0 to 1 and " in sentence
    assert "only training.steps may change" in sentence
    assert "damaged" not in sentence
    assert "delete" not in sentence
    assert run.recipe.read_bytes() == edited
    assert run.adapter.read_bytes() == before
    back, anew = commands(sentence)
    code, printed = mascot(*[str(tmp_path / "new") if word == "NEW" else word for word in anew])
    assert code == 0, printed
    made = Recipe.read(Run(tmp_path / "new").recipe)
    assert (made.method.model_dump()["rank"], made.seed, made.training.steps) == (8, 1, 6)
    code, printed = mascot(*back)
    assert code == 0, printed
    assert Recipe.read(run.recipe).method.model_dump()["rank"] == 16
    assert len(run.read_steps()) == 6


@pytest.mark.parametrize(
    "words",
    [
        ["seed=5", "previews.seed=5", "training.steps=6"],
        ["prediction=v"],
        pytest.param(["clip_skip=1"], marks=pytest.mark.slow),
        ["training.optimizer=prodigy"],
        ["method.name=textual-inversion"],
        pytest.param(["prior.weight=1", "prior.form=outputs", "prior.count=2"], marks=pytest.mark.slow),
        pytest.param(['dataset.templates=["it\'s {subject}"]'], marks=pytest.mark.slow),
        pytest.param(["start_from=RUN"], marks=pytest.mark.slow),
        pytest.param(["token=ohwx", "class_noun=cat"], marks=pytest.mark.slow),
        pytest.param(["zero_terminal_snr=true", "prediction=v", "precision=fp32"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_command_that_a_refused_change_names_trains(
    mascot: Mascot, run: Run, finished: Run, tmp_path: Path, words: list[str]
) -> None:
    """A new run with the change is offered as a command only where that is accepted."""
    given = [part for word in words for part in ("--set", word.replace("RUN", str(finished.folder)))]
    code, sentence = mascot("train", "--resume", "--out", run.folder, *given)
    assert (code, "cannot be resumed with" in sentence) == (2, True)
    back, *anew = commands(sentence)
    assert anew or "start a new run in another --out" in sentence
    for command in anew:
        code, printed = mascot(*[str(tmp_path / "new") if word == "NEW" else word for word in command])
        assert code == 0, printed
    code, printed = mascot(*back)
    assert code == 0, printed


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--seed", "3"], "seed"),
        (["--token", "zwx"], "token"),
        (["--class-noun", "cat"], "class_noun"),
        (["--base", "starter"], "base"),
        (["--method", "dreambooth"], "method.name"),
        (["--set", "training.batch_size=1"], "training.batch_size"),
        (["--set", "training.lr_schedule=cosine"], "training.lr_schedule"),
        (["--set", "dataset.flip=true"], "dataset.flip"),
        (["--set", "method.learning_rate=5e-3"], "method.learning_rate"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_an_option_that_may_not_change_is_refused_by_its_key(
    mascot: Mascot, run: Run, words: list[str], key: str
) -> None:
    code, sentence = mascot("train", "--resume", "--out", run.folder, *words)
    assert code == 2
    assert f"{key} from " in sentence


def test_damaged_lines_of_the_log_do_not_stop_a_resumed_run(mascot: Mascot, run: Run) -> None:
    before = run.steps.read_bytes()
    lines = (b"5", b"null", b"[]", b"{}", b"\xff\xfe", b'{"step": 1e400}', b'{"step": "x"}', b"[" * 3000, b"\x00")
    run.steps.write_bytes(b"".join(line + b"\n" for line in lines) + before + b"\n".join(lines))
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "5")
    assert code == 0, printed
    assert run.steps.read_bytes().startswith(before)
    assert [step["step"] for step in run.read_steps()] == [1, 2, 3, 4, 5]


def test_an_unknown_key_and_a_recipe_file_are_refused(mascot: Mascot, run: Run) -> None:
    code, sentence = mascot("train", "--resume", "--out", run.folder, "--set", "previews.evry=2")
    assert (code, "did you mean 'every'" in sentence) == (2, True)
    code, sentence = mascot("train", "--resume", "--out", run.folder, "--recipe", run.recipe)
    assert (code, "--set" in sentence) == (2, True)


def test_what_may_change_changes_and_is_recorded(mascot: Mascot, run: Run) -> None:
    changes = ("previews.every=5", "training.checkpoint_every=3", "device=cpu", "diagnosis.images=3")
    chosen = [word for change in changes for word in ("--set", change)]
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "6", *chosen)
    assert code == 0, printed
    assert sorted(run.previews()) == [5]
    recipe = Recipe.read(run.recipe)
    assert (recipe.training.steps, recipe.training.checkpoint_every, recipe.previews.every) == (6, 3, 5)
    facts = json.loads(run.effective.read_text(encoding="utf-8"))
    assert ["training.steps, changed at step 4", "4 to 6: training ends at that step"] in facts["changes"]
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    assert Recipe.read(Run(checkpoint).recipe) == recipe


@pytest.mark.slow
def test_previews_of_other_prompts_replace_those_of_the_old_ones(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    run = Run(train(tmp_path / "run", "--steps", 2, settings=("previews.every=2",)))
    assert sorted(run.previews()) == [0, 2]
    words = ["--steps", "4", "--set", 'previews.prompts=["a {subject}"]']
    assert mascot("train", "--resume", "--out", run.folder, *words)[0] == 0
    assert {step: len(files) for step, files in run.previews().items()} == {4: 1}


@pytest.mark.slow
def test_photos_may_move_but_not_change(mascot: Mascot, run: Run, home: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(home / "photos", tmp_path / "moved")
    code, printed = mascot("train", moved, "--resume", "--out", run.folder)
    assert code == 0, printed
    assert Recipe.read(run.recipe).photos == (str(moved),)
    (moved / "0.png").unlink()
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert (code, "photos changed since" in sentence) == (2, True)


@pytest.mark.parametrize("schedule", ["constant", pytest.param("cosine", marks=pytest.mark.slow)])
def test_an_extended_run_is_one_that_was_longer_from_the_start(
    mascot: Mascot, train: Train, tmp_path: Path, schedule: str
) -> None:
    """At a constant rate byte for byte; else the new length decides the rates from there on."""
    settings = (f"training.lr_schedule={schedule}", "training.warmup_steps=1")
    whole = Run(train(tmp_path / "whole", "--steps", 7, settings=settings))
    run = Run(train(tmp_path / "run", "--steps", 4, settings=settings))
    first = run.read_steps()
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "7")
    assert code == 0, printed
    assert run.read_steps()[:4] == first
    rates = [[row["learning_rate.unet"] for row in one.read_steps()] for one in (run, whole)]
    assert rates[0][4:] == rates[1][4:]
    same = schedule == "constant"
    assert (run.adapter.read_bytes() == whole.adapter.read_bytes()) == same
    assert (run.steps.read_bytes() == whole.steps.read_bytes()) == same
    assert run.recipe.read_bytes() == whole.recipe.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["before a checkpoint", "after one"])
def test_an_extended_run_that_was_stopped_goes_on_to_the_same_bytes(
    mascot: Mascot, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    settings = ("training.lr_schedule=cosine",)
    run = Run(train(tmp_path / "run", "--steps", 4, settings=settings))
    other = Run(Path(shutil.copytree(run.folder, tmp_path / "other")))
    extend = ["train", "--resume", "--out", other.folder, "--steps", "8"]
    whole, calls = mascot("train", "--resume", "--out", run.folder, "--steps", "8"), [0]
    assert whole[0] == 0, whole[1]
    from mascot.training.loop import Loop

    accumulate = Loop.accumulate

    def stopping(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == (2 if stopped == "before a checkpoint" else 4):
            raise OSError(28, "No space left on device", "x")
        return accumulate(*arguments)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "accumulate", stopping)
        assert mascot(*extend)[0] == 2
    code, printed = mascot("train", "--resume", "--out", other.folder)
    assert code == 0, printed
    assert other.adapter.read_bytes() == run.adapter.read_bytes()
    assert other.steps.read_bytes() == run.steps.read_bytes()
    names = [name for name, _ in json.loads(other.effective.read_text(encoding="utf-8"))["changes"]]
    assert names == ["training.steps, changed at step 4"]


def test_fewer_steps_than_are_trained_are_refused_and_the_remedy_works(mascot: Mascot, run: Run) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    code, sentence = mascot("train", "--resume", "--out", run.folder, "--steps", "3")
    assert code == 2
    assert "is trained up to step 4 already, so training.steps cannot be 3" in sentence
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    edit(run, ("steps = 4", "steps = 1"))
    assert mascot("train", "--resume", "--out", run.folder)[0] == 2
    assert mascot(*commands(sentence)[0])[0] == 0


@pytest.mark.slow
def test_a_run_may_end_earlier_than_planned(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    run = Run(train(tmp_path / "run", "--steps", 8))
    for step in (6, 8):
        shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    shutil.copytree(train(tmp_path / "short", "--steps", 4) / "checkpoints" / "step000002", run.checkpoint(2))
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "4")
    assert code == 0, printed
    assert [row["step"] for row in run.read_steps()] == [1, 2, 3, 4]
    assert run.adapter.read_bytes() == Run(tmp_path / "short").adapter.read_bytes()


@pytest.mark.slow
def test_a_damaged_checkpoint_says_truly_where_training_goes_on(mascot: Mascot, run: Run) -> None:
    resume = ("train", "--resume", "--out", run.folder)
    whole = run.adapter.read_bytes()
    for damaged, then in ((run.checkpoint(4), "goes on from step000002"), (run.checkpoint(2), "from its first step")):
        state = damaged / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-1])
        code, sentence = mascot(*resume)
        assert code == 2
        assert then in sentence
        shutil.rmtree(damaged)
    code, printed = mascot(*resume)
    assert code == 0, printed
    assert run.adapter.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recipe.toml", "state.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_refused(mascot: Mascot, run: Run, name: str) -> None:
    if name == "recipe.toml":
        (run.checkpoint(4) / name).write_bytes(b"\xff")
    else:
        (run.checkpoint(4) / name).unlink()
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert (code, "delete that folder, and --resume goes on from step000002" in sentence) == (2, True)
    shutil.rmtree(run.checkpoint(4))
    assert mascot("train", "--resume", "--out", run.folder)[0] == 0


@pytest.mark.slow
def test_a_damaged_record_of_the_start_can_be_deleted(mascot: Mascot, run: Run) -> None:
    run.effective.write_text("{}", encoding="utf-8")
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert (code, f"{run.effective} is damaged; delete it" in sentence) == (2, True)
    run.effective.unlink()
    assert mascot("train", "--resume", "--out", run.folder)[0] == 0
    assert run.effective.exists()


@pytest.mark.slow
def test_a_phase_that_ended_keeps_its_steps(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    """A phase that is under way may become longer."""
    settings = ("method.name=pivotal", "method.layers.rank=2", "method.layers.text_learning_rate=0")
    run = Run(train(tmp_path / "run", "--steps", 8, settings=settings))
    code, sentence = mascot("train", "--resume", "--out", run.folder, "--steps", "12")
    assert (code, "past step 4, where a phase" in sentence) == (2, True)
    back, anew = commands(sentence)
    assert mascot(*back)[0] == 0
    assert "--from" in anew
    code, printed = mascot(*[str(tmp_path / "new") if word == "NEW" else word for word in anew])
    assert code == 0, printed
    assert all("learning_rate.unet" in row for row in Run(tmp_path / "new").read_steps())
    shutil.rmtree(run.folder / "checkpoints")
    shutil.copytree(
        train(tmp_path / "other", "--steps", 4, settings=settings) / "checkpoints" / "step000002", run.checkpoint(2)
    )
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "12")
    assert code == 0, printed
    assert next(span for span in run.read_steps() if "learning_rate.unet" in span)["step"] == 7
