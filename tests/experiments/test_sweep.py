"""Laws of sweeps: finished work stays, a killed sweep ends like a whole one, failures are shown."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.errors import UserError
from mascot.experiments import executors
from mascot.experiments.base_pool import BasePool, base_pool
from mascot.experiments.executors import make_executor, ray_executor
from mascot.experiments.leaderboard import Leaderboard, MetricValues
from mascot.experiments.search_space import ValueRange
from mascot.experiments.sweep import sweep_recipes
from mascot.experiments.sweep_job import SweepFolder, SweepJob
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.progress import Event, FileWritten, RunFinished, RunsPlanned
from mascot.recipe.recipe import Recipe
from mascot.runs.export import export_adapter
from mascot.runs.inputs import read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin, train_steps
from mascot.storage.run_folder import Run

OVER = {"method.rank": [2, 4], "training.steps": [1, 2]}
REQUEST = ImageRequest("a photo of a {subject}", 3)


class Killed(BaseException):
    """What stops a test's sweep as a signal would: nothing may catch it."""


@dataclass
class Fake:
    """Trains, scores and generates in no time, and counts calls; call number `fatal` kills."""

    fatal: int = 0
    failing: tuple[int, ...] = ()
    """Ranks whose training fails."""
    calls: list[str] = field(default_factory=list[str])

    def count(self, what: str, recipe: Recipe) -> None:
        rank, steps = recipe.method.model_dump()["rank"], recipe.training.steps
        self.calls.append(f"{what} {rank} {steps}")
        if self.fatal == len(self.calls):
            raise Killed

    def train_run(self, recipe: Recipe, folder: Path) -> Run:
        run = Run(folder)
        run.write_text(run.recipe, recipe.to_toml())
        self.count("train", recipe)
        if recipe.method.model_dump()["rank"] in self.failing:
            raise UserError("this rank fails.")
        run.adapter.write_bytes(b"an adapter")
        return run

    def score_run(self, run: Run) -> MetricValues:
        recipe = Recipe.read(run.recipe)
        self.count("score", recipe)
        rank = recipe.method.model_dump()["rank"]
        return {"likeness": [rank + 0.1 * i for i in range(5)], "drift": float(recipe.training.steps), "copying": None}

    def generate(self, run: Run, request: ImageRequest, path: Path) -> None:
        recipe = Recipe.read(run.recipe)
        self.count("generate", recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (request.seed, 0, 0)).save(path)


@pytest.fixture
def values(home: Path) -> dict[str, Any]:
    return {"photos": [str(home / "photos")], "class_noun": "dog"}


def job_of(out: Path, fake: Fake, **changes: Any) -> SweepJob:
    usual = {"train_run": fake.train_run, "score_run": fake.score_run, "generate": fake.generate}
    return SweepJob(files=SweepFolder(out), **{**usual, "scored_by": "fake", "request": REQUEST, **changes})


def swept(values: Any, out: Path, fake: Fake, **more: Any) -> Leaderboard:
    of_job = {name: more.pop(name) for name in ("scored_by", "request", "generate") if name in more}
    return sweep_recipes(values, job=job_of(out, fake, **of_job), **{"over": OVER, "by": "likeness", **more})


@pytest.fixture
def whole(values: dict[str, Any], tmp_path: Path) -> tuple[Leaderboard, Path]:
    """A sweep that was not interrupted."""
    return swept(values, tmp_path / "whole", Fake()), tmp_path / "whole"


def assert_equal(one: Path, other: Path) -> None:
    """The same leaderboard and images, and no temporary file is left."""
    for name in ("leaderboard.json", "grid.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert list(one.rglob(".*.tmp")) == []


def test_all_is_done_once_and_ranked(whole: tuple[Leaderboard, Path]) -> None:
    board, folder = whole
    found = [(entry.changes["method.rank"], entry.changes["training.steps"], entry.rank) for entry in board.entries]
    assert found == [(4, 1, 1), (4, 2, 1), (2, 1, 3), (2, 2, 3)]  # equals stand in the grid's order
    assert Leaderboard.read(folder / "leaderboard.json") == board
    assert {path.name for path in (folder / "runs").iterdir()} == {entry.name for entry in board.entries}
    with Image.open(folder / "grid.png") as image:
        assert (
            'X Type: method.rank, X Values: "2, 4", Y Type: training.steps, Y Values: "1, 2"'
            in image.text["parameters"]
        )


def test_the_page_links_to_the_runs_that_have_scores(values: dict[str, Any], whole: tuple[Leaderboard, Path]) -> None:
    """Each call writes it, also if nothing is left to do; an earlier sweep's grid is not on it."""
    board, folder = whole
    name = board.entries[0].name
    (folder / "runs" / name / "scores.html").write_text("scores")
    events: list[Event] = []
    swept(values, folder, Fake(), on_event=events.append)
    text = (folder / "leaderboard.html").read_text(encoding="utf-8")
    assert events[-1] == FileWritten(kind="page", path=folder / "leaderboard.html")
    assert text.count('<a href="runs/') == text.count(f'<a href="runs/{name}/scores.html">') == 1
    assert text.count("<img") == 4 + 1
    swept(values, folder, Fake(), generate=None)
    assert "<img" not in (folder / "leaderboard.html").read_text(encoding="utf-8")


def test_a_second_call_does_nothing_and_returns_the_same(
    values: dict[str, Any], whole: tuple[Leaderboard, Path]
) -> None:
    fake = Fake()
    assert swept(values, whole[1], fake) == whole[0]
    assert fake.calls == []


@pytest.mark.parametrize("fatal", range(1, 13))
def test_killed_at_any_moment_and_called_again_it_ends_as_if_it_was_never_killed(
    values: dict[str, Any], whole: tuple[Leaderboard, Path], tmp_path: Path, fatal: int
) -> None:
    killed, again = Fake(fatal=fatal), Fake()
    with pytest.raises(Killed):
        swept(values, tmp_path / "killed", killed)
    assert swept(values, tmp_path / "killed", again) == whole[0]
    assert_equal(tmp_path / "killed", whole[1])
    assert set(killed.calls[:-1]) & set(again.calls) == set()  # only what was under way is done again
    assert len(killed.calls) - 1 + len(again.calls) == 12


def test_more_values_use_what_is_there(values: dict[str, Any], whole: tuple[Leaderboard, Path]) -> None:
    fake = Fake()
    board = swept(values, whole[1], fake, over={"method.rank": [2, 4, 8], "training.steps": [1, 2]})
    assert len(board.entries) == 6
    assert set(fake.calls) == {f"{what} 8 {steps}" for what in ("train", "score", "generate") for steps in (1, 2)}


def test_other_encoders_score_again_and_another_prompt_is_generated_again(
    values: dict[str, Any], whole: tuple[Leaderboard, Path]
) -> None:
    fake = Fake()
    swept(values, whole[1], fake, scored_by="others")
    assert {call.split()[0] for call in fake.calls} == {"score"}
    fake.calls.clear()
    swept(values, whole[1], fake, scored_by="others", request=ImageRequest(REQUEST.prompt, 4))
    assert {call.split()[0] for call in fake.calls} == {"generate"}


def test_a_run_that_is_gone_or_was_exchanged_is_trained_again(
    values: dict[str, Any], whole: tuple[Leaderboard, Path]
) -> None:
    board, folder = whole
    gone, exchanged = (Run(folder / "runs" / entry.name) for entry in board.entries[:2])
    gone.adapter.unlink()
    recipe = Recipe.read(exchanged.recipe)
    exchanged.write_text(exchanged.recipe, recipe.model_copy(update={"seed": 99}).to_toml())
    fake = Fake()
    assert swept(values, folder, fake) == board
    assert len([call for call in fake.calls if call.startswith("train")]) == 2


def test_a_failed_run_is_one_line_and_is_tried_again(
    values: dict[str, Any], whole: tuple[Leaderboard, Path], tmp_path: Path
) -> None:
    board = swept(values, tmp_path / "failed", Fake(failing=(2,)))
    assert [(entry.failure, entry.rank) for entry in board.entries] == [
        (None, 1),
        (None, 1),
        *[("this rank fails.", None)] * 2,
    ]
    assert swept(values, tmp_path / "failed", Fake()) == whole[0]
    assert_equal(tmp_path / "failed", whole[1])


def test_a_bug_of_ours_is_one_line_too_and_keeps_its_traceback(values: dict[str, Any], tmp_path: Path) -> None:
    fake = Fake()

    def faulty(run: Run) -> MetricValues:
        return {"likeness": 1.0 / (Recipe.read(run.recipe).training.steps - 1)}

    board = sweep_recipes(values, OVER, job_of(tmp_path, fake, score_run=faulty, generate=None), by="likeness")
    failed = [entry for entry in board.entries if entry.failure]
    assert len(failed) == 2
    for entry in failed:
        path = tmp_path / "records" / f"{entry.name}.failure.txt"
        assert entry.failure == f"ZeroDivisionError: float division by zero (traceback: {path})"
        assert "in faulty" in path.read_text()
    swept(values, tmp_path, fake)
    assert list((tmp_path / "records").glob("*.txt")) == []


def test_mistakes_leave_nothing_behind(values: dict[str, Any], tmp_path: Path) -> None:
    fake = Fake()
    (tmp_path / "empty").mkdir()
    for over, given in (({"method.rnk": [1]}, values), (OVER, {**values, "photos": [str(tmp_path / "empty")]})):
        with pytest.raises(UserError):
            swept(given, tmp_path / "out", fake, over=over)
    assert fake.calls == []
    assert not (tmp_path / "out").exists()


def test_two_sweeps_do_not_share_a_folder_at_once(values: dict[str, Any], tmp_path: Path) -> None:
    with Run(tmp_path / "out").locked(), pytest.raises(UserError, match="in use"):
        swept(values, tmp_path / "out", Fake())


def test_a_misspelt_metric_is_found_after_one_run(values: dict[str, Any], tmp_path: Path) -> None:
    fake = Fake()
    with pytest.raises(UserError, match="did you mean 'likeness'"):
        swept(values, tmp_path / "out", fake, by="likenes")
    assert len([call for call in fake.calls if call.startswith("train")]) == 1


def test_events_report_plan_runs_and_files(values: dict[str, Any], tmp_path: Path) -> None:
    events: list[Event] = []
    swept(values, tmp_path / "out", Fake(failing=(2,)), on_event=events.append)
    assert events[0] == RunsPlanned(runs=4)
    finished = [event for event in events if isinstance(event, RunFinished)]
    for rank, steps in ((2, 1), (2, 2), (4, 1), (4, 2)):
        [event] = [event for event in finished if event.name == f"method.rank={rank}, training.steps={steps}"]
        assert event.failure == ("this rank fails." if rank == 2 else "")
        assert event.scores.get("drift") == (None if rank == 2 else steps)
    written = [event.kind for event in events if isinstance(event, FileWritten)]
    assert written == ["leaderboard", "grid", "page"]
    assert len(events) == 1 + 4 + 3


SEARCH = {"over": {"method.rank": [2, 4, 8], "method.learning_rate": ValueRange(1e-5, 1e-3)}, "trials": 6}


@pytest.mark.parametrize("fatal", [1, 2, 8])
def test_a_killed_search_goes_on_to_the_same_leaderboard(values: dict[str, Any], tmp_path: Path, fatal: int) -> None:
    board = swept(values, tmp_path / "whole", Fake(), **SEARCH)
    assert len(board.entries) == 6
    assert not (tmp_path / "whole" / "grid.png").exists()
    killed, again = Fake(fatal=fatal), Fake()
    with pytest.raises(Killed):
        swept(values, tmp_path / "killed", killed, **SEARCH)
    assert swept(values, tmp_path / "killed", again, **SEARCH) == board
    assert len([call for call in [*killed.calls, *again.calls] if call.startswith("score")]) in {6, 7}


# Executors.


class FakeRay(ModuleType):
    """The part of Ray that executors use: tasks run when they are waited for, the last one first.

    A lost task loses its worker for good.
    """

    class RayError(Exception):
        """Base of Ray's errors."""

    def __init__(self, lost: Callable[[Any], bool], gpus: int = 0) -> None:
        super().__init__("ray")
        self.exceptions = self
        self.lost, self.gpus, self.up = lost, gpus, False
        self.options: dict[str, Any] = {}
        self.started: dict[str, Any] = {}
        self.tasks: list[tuple[Any, tuple[Any, ...]]] = []
        self.cancelled: list[int] = []

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **options: Any) -> None:
        self.started, self.up = options, True

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": float(self.gpus)} if self.gpus else {}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Any:
        self.options = options

        def wrap(function: Any) -> Any:
            def submit(*arguments: Any) -> int:
                self.tasks.append((function, arguments))
                return len(self.tasks) - 1

            wrapped = ModuleType("task")
            wrapped.__dict__["remote"] = submit
            return wrapped

        return wrap

    def wait(self, references: Sequence[int], num_returns: int) -> tuple[list[int], list[int]]:
        assert num_returns == 1
        return [references[-1]], list(references[:-1])

    def get(self, reference: int) -> Any:
        function, arguments = self.tasks[reference]
        if self.lost(arguments[1]):
            raise self.RayError("the worker died unexpectedly\nand more")
        return function(*arguments)

    def cancel(self, reference: int) -> None:
        self.cancelled.append(reference)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(lambda _: False)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_every_executor_ends_in_the_same_leaderboard(
    values: dict[str, Any], whole: tuple[Leaderboard, Path], tmp_path: Path, ray: FakeRay
) -> None:
    assert swept(values, tmp_path / "ray", Fake(), executor=make_executor("ray")) == whole[0]
    assert_equal(tmp_path / "ray", whole[1])
    assert ray.started == {
        "address": "local",
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    assert ray.options == {"max_retries": executors.RETRIES, "num_cpus": 1, "num_gpus": 0}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_worker_that_dies_loses_only_its_own_run(values: dict[str, Any], tmp_path: Path, ray: FakeRay) -> None:
    ray.lost = lambda point: point.changes == {"method.rank": 2, "training.steps": 2}
    board = swept(values, tmp_path, Fake(), executor=ray_executor("a.cluster:6379"))
    assert [entry.failure for entry in board.entries] == [None] * 3 + [
        "its worker was lost: the worker died unexpectedly"
    ]
    assert ray.started["address"] == "a.cluster:6379"


def test_an_accelerator_is_requested_if_there_is_one(ray: FakeRay) -> None:
    ray.gpus = 2
    assert list(ray_executor()(str, [1])) == [(1, "1")]
    assert ray.options["num_gpus"] == 1


def test_tasks_that_are_no_longer_wanted_are_cancelled(ray: FakeRay) -> None:
    done: Iterator[Any] = ray_executor()(str, [1, 2, 3])
    assert next(done) == (3, "3")
    done.close()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    assert ray.cancelled == [0, 1]


def test_executors_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> None:
    with pytest.raises(UserError, match="did you mean 'local'"):
        make_executor("locl")
    with pytest.raises(UserError, match="--address is for --engine ray"):
        make_executor("local", "a.cluster")
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody there")))
    with pytest.raises(UserError, match="nobody there"):
        make_executor("ray", "a.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"mascot\[ray\]"):
        make_executor("ray")


# Real runs, on the tiny base.

SMALL = (
    "device=cpu",
    "precision=fp32",
    "prior.count=0",
    "previews.every=0",
    "knobs.steps=1",
    "method.learning_rate=1e-2",
    "method.text_learning_rate=1e-3",
    "training.checkpoint_every=1",
    "training.batch_size=1",
)
REAL: dict[str, Any] = {"over": {"method.rank": [2, 4], "seed": [0, 1]}, "by": "size"}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "accelerate",
        "peft",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "transformers.models.clip",
        "tensorboard",
    ]
)


def small(home: Path, base: Path, *more: str) -> Recipe:
    return Recipe.preset(
        photos=[str(home / "photos")], class_noun="dog", base=str(base), overrides=[*SMALL, "training.steps=2", *more]
    )


@dataclass(frozen=True)
class Trainer:
    """Really trains, each run on a base from a pool."""

    bases: BasePool
    fatal: str = ""
    """Rank and seed of the run after whose first step this process ends like by `kill -9`."""

    def __call__(self, recipe: Recipe, folder: Path) -> Run:
        files = Run(folder)
        with files.locked(), self.bases.lend(recipe) as family:
            run = TrainingRun(recipe=recipe, files=files, photos=read_subject(recipe), family=family)
            begin(run)
            files.write_text(files.recipe, recipe.to_toml())
            for step in train_steps(run):
                if step.number == 1 and self.fatal == f"{recipe.method.model_dump().get('rank')} {recipe.seed}":
                    os.kill(os.getpid(), signal.SIGKILL)
            run.finish()
            export_adapter(run).write(files.adapter)
            run.detach()
        return files


def size_of(run: Run) -> MetricValues:
    """The size of the trained weights: a score that depends on every bit of an adapter."""
    return {"size": [float(tensor.square().sum()) for _, tensor in sorted(Adapter.read(run.adapter).tensors.items())]}


def real_sweep(recipe: Recipe, out: Path, fatal: str = "") -> Leaderboard:
    job = SweepJob(files=SweepFolder(out), train_run=Trainer(BasePool(), fatal), score_run=size_of, scored_by="size")
    return sweep_recipes(recipe, job=job, **REAL)


def test_killed_in_the_middle_of_a_run_a_sweep_goes_on_to_the_same_leaderboard(
    home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    recipe = small(home, tiny_base)
    board = real_sweep(recipe, tmp_path / "whole")
    assert [entry.failure for entry in board.entries] == [None] * 4
    process = PROCESSES.Process(target=real_sweep, args=(recipe, tmp_path / "killed", "2 1"))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    runs = [Run(path) for path in (tmp_path / "killed" / "runs").iterdir()]
    assert sorted((run.adapter.exists(), len(run.read_steps())) for run in runs) == [(False, 1), (True, 2), (True, 2)]
    before = {run.adapter: run.adapter.stat().st_mtime_ns for run in runs if run.adapter.exists()}
    assert real_sweep(recipe, tmp_path / "killed") == board
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for entry in board.entries:
        whole, killed = (Run(tmp_path / name / "runs" / entry.name).adapter for name in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()


@pytest.mark.parametrize("method", ["lora", "dreambooth", "textual-inversion", "pivotal"])
def test_a_base_that_came_back_unchanged_is_lent_again_and_trains_the_same(
    home: Path, tiny_base: Path, tmp_path: Path, method: str
) -> None:
    settings = [word for word in SMALL if method == "lora" or not word.startswith("method.")]
    recipe = Recipe.preset(
        photos=[str(home / "photos")],
        class_noun="dog",
        base=str(tiny_base),
        overrides=[*settings, f"method.name={method}", "training.steps=2"],
    )
    bases = BasePool()
    trainer = Trainer(bases)
    first = trainer(recipe, tmp_path / "first")
    with bases.lend(recipe) as family:
        pass
    second = trainer(recipe, tmp_path / "second")
    with bases.lend(recipe) as again:
        assert again is family
    assert (
        first.adapter.read_bytes()
        == second.adapter.read_bytes()
        == Trainer(BasePool())(recipe, tmp_path / "third").adapter.read_bytes()
    )


def test_a_base_that_came_back_changed_is_not_lent_again(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    recipe, bases = small(home, tiny_base), BasePool()
    run = Trainer(bases)(recipe, tmp_path / "run")

    def lent(use: Callable[[Any], object] = lambda _: None) -> Any:
        with bases.lend(recipe) as family:
            use(family)
        return family

    kept = lent(lambda family: family.stages[0].text_encoder("text_encoder").requires_grad_())
    assert kept.stages[0].loaded == {}  # text encoders are released, with all that was done to them
    assert lent() is kept
    uses: tuple[Callable[[Any], object], ...] = (
        lambda family: Generator(family, Adapter.read(run.adapter)),
        lambda family: next(iter(family.stages[0].unet.parameters())).mul_(1),
        lambda family: family.stages[0].unet.enable_gradient_checkpointing(),
        lambda family: family.stages[0].unet.train(),
        lambda family: family.stages[0].unet.requires_grad_(),
        lambda family: family.stages[0].unet.register_forward_hook(print),
    )
    for use in uses:
        before = lent()
        assert lent(use) is before
        assert lent() is not before
    before = lent()
    with pytest.raises(UserError), bases.lend(recipe):
        raise UserError("it failed")
    assert lent() is not before
    assert lent() is lent()
    before = lent()
    with bases.lend(recipe.model_copy(update={"precision": "bf16"})) as family:
        assert family is not before
    assert pickle.loads(pickle.dumps(bases)) is base_pool()  # noqa: S301 - our own


@pytest.mark.slow
def test_ray_itself_ends_in_the_same_leaderboard_though_a_worker_dies(
    values: dict[str, Any], whole: tuple[Leaderboard, Path], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    program = f"""
import json, os, sys
from pathlib import Path
from mascot.experiments.executors import ray_executor
from mascot.experiments.sweep import sweep_recipes
from experiments.test_sweep import OVER, Fake, job_of

class Dying(Fake):
    def train_run(self, recipe, folder):
        mark = Path({str(tmp_path)!r}) / f"died{{recipe.training.steps}}"
        if not mark.exists():
            mark.touch()
            os._exit(9)
        return super().train_run(recipe, folder)

fake = Dying()
job = job_of(Path({str(tmp_path / "ray")!r}), fake)
sweep_recipes(json.loads(sys.argv[1]), OVER, job, by="likeness", executor=ray_executor())
"""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(values)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died1").exists()
    assert_equal(tmp_path / "ray", whole[1])
    assert SweepFolder(whole[1]).grid.exists()
