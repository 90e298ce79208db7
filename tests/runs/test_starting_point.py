"""A run that starts from an adapter generates at step 0 what the adapter generates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator
from mascot.methods.lora import LoraSettings
from mascot.recipe.recipe import Recipe
from mascot.runs.phase_schedule import plan_spans
from mascot.storage.run_folder import Run, kept_steps
from runs.conftest import Mascot, Train, commands

VARIANTS = get_args(LoraSettings.model_fields["variant"].annotation)
KINDS: dict[str, tuple[str, ...]] = {
    **{
        variant: (f"method.variant={variant}", "method.rank=2", "method.alpha=4", "method.text_learning_rate=1e-2")
        for variant in VARIANTS
    },
    "layers": ("method.layers=all", "method.rank=2", "training.ema_decay=0.5", "method.text_learning_rate=0"),
    "dreambooth": ("method.name=dreambooth", "method.text_learning_rate=1e-3"),
    "textual-inversion": ("method.name=textual-inversion", "method.vectors=2"),
    "pivotal": ("method.name=pivotal", "method.layers.rank=2", "method.layers.text_learning_rate=1e-2"),
}
QUICK = ("training.batch_size=1", "previews.every=1", "knobs.steps=1", "prior.weight=0", "diagnosis.active=false")
SMALL = ("selection.active=false", "training.checkpoint_every=2", 'previews.prompts=["a photo of {subject}"]')
CHOSEN = [word for setting in (*QUICK, *SMALL) for word in ("--set", setting)]


def generated(run: Run) -> np.ndarray:
    """The image that the first preview shows, by the run's own adapter."""
    recipe = Recipe.read(run.recipe)
    generator, adapter, _ = open_generator(run.adapter, device="cpu")
    knobs = Knobs(steps=1, guidance=recipe.knobs.guidance, height=generator.resolution, width=generator.resolution)
    assert adapter.manifest is not None
    words = f"{adapter.manifest.token} {adapter.manifest.class_noun}"
    return np.asarray(next(generator.generate([ImageRequest(f"a photo of {words}", 0)], knobs)), float)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "lora" else pytest.mark.slow) for kind in KINDS]
)
def test_the_first_preview_is_the_image_of_the_adapter(mascot: Mascot, train: Train, tmp_path: Path, kind: str) -> None:
    before = Run(train(tmp_path / "before", "--steps", 2, settings=KINDS[kind]))
    run = Run(tmp_path / "run")
    code, printed = mascot("train", "--from", before.folder, "--steps", "2", *CHOSEN, "--out", run.folder)
    assert code == 0, printed
    first, recipe = Image.open(run.previews()[0][0]), Recipe.read(run.recipe)
    assert np.abs(np.asarray(first, float) - generated(before)).max() <= 1
    assert recipe.photos == Recipe.read(before.recipe).photos
    assert recipe.method == Recipe.read(before.recipe).method
    assert (recipe.token, recipe.class_noun, recipe.start_from) == ("sks", "dog", str(before.folder))
    assert weights(run.adapter) != weights(before.adapter)
    other = Run(tmp_path / "other")
    with pytest.MonkeyPatch.context() as patch:  # Ctrl-C in the first step leaves a checkpoint of step 0
        patch.setattr("mascot.training.loop.Loop.accumulate", interrupt)
        code, printed = mascot("train", "--from", before.folder, "--steps", "2", *CHOSEN, "--out", other.folder)
    assert code == 130, printed
    assert weights(Run(other.checkpoint(0)).adapter) == weights(before.adapter)
    code, printed = mascot("train", "--resume", "--out", other.folder)
    assert code == 0, printed
    assert other.adapter.read_bytes() == run.adapter.read_bytes()


def weights(path: Path) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in Adapter.read(path).tensors.items()}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_start_from_a_kept_step_or_a_file_can_be_stopped_and_resumed(
    mascot: Mascot, finished: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mascot.training.loop import Loop

    assert kept_steps(finished) == [2, 4]
    source = Path(shutil.copytree(finished.folder, tmp_path / "source"))
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    words = ["train", home / "photos", "--from", f"{source}@2", "--steps", "4", "--seed", "3", *CHOSEN]
    assert mascot(*words, "--out", whole.folder)[0] == 0
    accumulate = Loop.accumulate
    for at in (1, 3):  # before and after the first checkpoint
        calls = [0]

        def stopping(*arguments: object, at: int = at, calls: list[int] = calls) -> object:
            calls[0] += 1
            if calls[0] == at:
                raise OSError(28, "No space left on device", "x")
            return accumulate(*arguments)  # pyright: ignore[reportArgumentType]

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "accumulate", stopping)
            again = ["train", "--resume"] if run.recipe.exists() else words
            assert mascot(*again, "--out", run.folder)[0] == 2
    shutil.rmtree(source)  # the checkpoint has what it takes
    code, printed = mascot("train", "--resume", "--out", run.folder)
    assert code == 0, printed
    assert run.adapter.read_bytes() == whole.adapter.read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("method.rank=8",), "method.rank 16"),
        pytest.param(("method.variant=dora",), "method.variant lora", marks=pytest.mark.slow),
        pytest.param(("method.layers=all",), "method.layers attention", marks=pytest.mark.slow),
        pytest.param(("method.alpha=2",), "method.alpha 16", marks=pytest.mark.slow),
        pytest.param(("method.text_learning_rate=0",), "method.text_learning_rate 1e-05", marks=pytest.mark.slow),
        pytest.param(("method.name=dreambooth",), "trained by lora", marks=pytest.mark.slow),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_the_adapter_is_refused_by_name(
    mascot: Mascot, finished: Run, tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    out = tmp_path / "out"
    code, sentence = mascot("train", "--from", finished.folder, *CHOSEN, *chosen, "--steps", "1", "--out", out)
    assert code == 2
    assert said in sentence
    assert not out.exists()
    remedy = sentence.split("give ")[1].split(", or")[0].split()
    if "text_rank" not in sentence and "text_alpha" not in sentence:
        assert (
            mascot("train", "--from", finished.folder, *CHOSEN, *chosen, *remedy, "--steps", "1", "--out", out)[0] == 0
        )


def test_another_base_a_missing_run_and_a_foreign_file_are_refused(
    mascot: Mascot, finished: Run, tmp_path: Path
) -> None:
    start = ("train", *CHOSEN, "--steps", "1", "--out", tmp_path / "out", "--from")
    code, sentence = mascot(*start, finished.folder, "--base", "starter", "--set", "method.text_learning_rate=1e-5")
    assert (code, "this adapter was trained on" in sentence) == (2, True)
    assert mascot(*start, tmp_path / "nothing")[0] == 2
    code, sentence = mascot(*start, f"{finished.folder}@3")
    assert (code, "give one of them" in sentence) == (2, True)
    adapter = Adapter.read(finished.adapter)
    Adapter(tensors=adapter.tensors, metadata=adapter.metadata, manifest=None).write(tmp_path / "x.safetensors")
    code, sentence = mascot(*start, tmp_path / "x.safetensors")
    assert (code, "does not say how it was trained" in sentence) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_token_is_refused_where_it_is_trained(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    before = train(tmp_path / "before", "--steps", 2, settings=KINDS["textual-inversion"])
    words = ("train", "--from", before, *CHOSEN, "--steps", "1", "--out", tmp_path / "out", "--token", "zwx")
    code, sentence = mascot(*words)
    assert (code, "token sks" in sentence) == (2, True)
    assert mascot(*words[:-1], "sks")[0] == 0


@pytest.mark.slow
def test_rates_steps_and_photos_may_differ(mascot: Mascot, finished: Run, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.mkdir()
    shutil.copy(home / "photos" / "0.png", other / "x.png")
    words = ("--set", "method.learning_rate=5e-3", "--steps", "3", "--token", "zwx", "--class-noun", "cat")
    code, printed = mascot("train", other, "--from", finished.adapter, *words, *CHOSEN, "--out", tmp_path / "out")
    assert code == 0, printed


def test_a_run_that_starts_from_an_adapter_trains_the_last_phase_alone() -> None:
    from mascot.methods.registry import settings_of

    method = settings_of("pivotal")()
    spans = plan_spans(2, method, 10, started=True)
    assert [(span.first, span.last) for span in spans] == [(0, 0), (0, 10), (10, 10), (10, 20)]
    assert [(span.first, span.last) for span in plan_spans(1, method, 10)] == [(0, 5), (5, 10)]


def test_the_remedy_of_a_phase_that_ended_starts_from_the_run(mascot: Mascot, finished: Run) -> None:
    code, sentence = mascot("train", "--resume", "--out", finished.folder, "--set", "method.learning_rate=1e-3")
    assert code == 2
    assert any("--from" in command for command in commands(sentence))
    code, sentence = mascot("train", "--resume", "--out", finished.folder, "--set", "method.rank=8")
    assert code == 2
    assert not any("--from" in command for command in commands(sentence))
