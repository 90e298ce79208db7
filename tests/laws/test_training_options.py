"""Laws of training options: none is accepted and unused, and all resume to the bit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image, ImageDraw

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.peft_layers import lora_layers
from mascot.api.generate import generate
from mascot.api.train import train
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from mascot.progress import Event, StepTrained
from mascot.protocols import Batch, Framing, Latents, Stage
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from mascot.training.cost import time_one_step
from mascot.training.loop import Loop
from mascot.training.settings import TrainingSettings
from tiny.families import CASCADES, MAKERS
from tiny.families import tiny_base as tiny_base_of
from tiny.stable_diffusion import SUBJECT

COMMON = (
    "training.steps=4",
    "training.checkpoint_every=1000",
    "training.warmup_steps=0",
    "previews.every=0",
    "knobs.steps=2",
    "prior.count=1",
    "prior.steps=1",
    "precision=fp32",
    "device=cpu",
    "method.rank=2",
)
OPTIONS = {
    "nothing": (),
    "8-bit moments": ("training.optimizer=adamw8bit",),
    "prodigy": ("training.optimizer=prodigy",),
    "schedule-free": ("training.optimizer=schedule-free",),
    "an average": ("training.ema_decay=0.9",),
    "offset noise": ("training.offset_noise=0.5",),
    "outputs as prior": ("prior.form=outputs",),
    "captions dropped": ("dataset.caption_dropout=0.7",),
    "wildcards": ('dataset.templates=["a {red|blue|big|small} {subject}"]',),
    "tags that vary": (
        'dataset.templates=["{subject}, red, small, at night"]',
        "dataset.shuffle_tags=true",
        "dataset.tag_dropout=0.3",
        "prior.form=outputs",
    ),
    "a mask": ("dataset.masked=0.1",),
    "text that stops": ("method.text_until=0.5",),
    "activations twice": ("training.gradient_checkpointing=true",),
    "a base in 4 bits": ("base_weights=nf4",),
    "a base in 8 bits": ("base_weights=int8",),
}
SAME_AS_NOTHING = {"activations twice"}
"""What changes memory, not numbers."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos with masks of a corner."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        noise = torch.randint(0, 255, (64, 64, 3), generator=seeded("photo", i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{i}.png")
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).rectangle((0, 0, 24 + 8 * i, 24), fill=255)
        mask.save(folder / f"{i}.mask.png")
    return folder


def recipe_of(base: Path, photos: Path, *overrides: str) -> Recipe:
    return Recipe.preset(base=str(base), overrides=(*COMMON, *overrides), photos=(str(photos),), class_noun="dog")


def trained(recipe: Recipe, out: Path, *, stop_after: int | None = None, resume: bool = False) -> Run:
    """A run, to its end or stopped after a step as by Ctrl-C."""

    def watch(event: Event) -> None:
        if isinstance(event, StepTrained) and event.step == stop_after:
            raise KeyboardInterrupt

    if stop_after is None:
        return train(recipe, out=out, report=False, on_event=watch, resume=resume)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=out, report=False, on_event=watch, resume=resume)
    return Run(out)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_used_and_resumes_to_the_bit(tiny_base: Path, photos: Path, tmp_path: Path, name: str) -> None:
    """Other bytes than without it (memory options apart), and the same bytes when resumed."""
    plain = trained(recipe_of(tiny_base, photos), tmp_path / "plain")
    recipe = recipe_of(tiny_base, photos, *OPTIONS[name])
    whole = trained(recipe, tmp_path / "whole")
    trained(recipe, tmp_path / "stopped", stop_after=2)
    resumed = trained(recipe, tmp_path / "stopped", resume=True)
    assert resumed.adapter.read_bytes() == whole.adapter.read_bytes()
    one, other = Adapter.read(plain.adapter).tensors, Adapter.read(whole.adapter).tensors
    if name in SAME_AS_NOTHING or not OPTIONS[name]:
        for key, tensor in one.items():
            torch.testing.assert_close(other[key], tensor, atol=1e-6, rtol=1e-4)
    else:
        assert any(not torch.equal(other[key], tensor) for key, tensor in one.items())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_run_on_a_quantised_base_ends_in_a_report(tiny_base: Path, photos: Path, tmp_path: Path, kind: str) -> None:
    """Its adapter is put on that base again to be drawn, and on the full base by `generate`.

    The precision is that of most presets, and the memory is estimated beforehand.
    """
    overrides = (f"base_weights={kind}", "precision=bf16", "knobs.steps=1")
    run = train(recipe_of(tiny_base, photos, *overrides), out=tmp_path / "run")
    assert run.report.exists()
    assert "memory, estimated" in json.loads(run.effective.read_text())["settings"]
    assert len(generate(run, ["a {subject}"], count=1)) == 1


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of FLUX, once a process
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", [*MAKERS, *CASCADES])
def test_every_base_trains_on_quantized_weights(photos: Path, tmp_path: Path, name: str, kind: str) -> None:
    """The precision is that of most presets."""
    overrides = (f"base_weights={kind}", "precision=bf16", "training.steps=2", "dataset.resolution=64")
    base = tiny_base_of(name, tmp_path / "base")
    run = trained(recipe_of(base, photos, *overrides), tmp_path / "run")
    assert "memory, estimated" in json.loads(run.effective.read_text())["settings"]
    assert all(tensor.isfinite().all() for tensor in Adapter.read(run.adapter).tensors.values())


@pytest.fixture
def stage(tiny_base: Path) -> Stage:
    return load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]


def batch(number: int) -> Batch:
    mean = gaussian((4, 8, 8), [seeded("x", number)])
    framing = Framing(original=(64, 64), target=(64, 64))
    return Batch(
        latents=Latents(mean_BCHW=mean, deviation_BCHW=torch.zeros_like(mean)),
        prompts=("a photo of a sks dog",),
        framings=(framing,),
        weight_B=torch.ones(1),
        subject_count=1,
        generators=(seeded("batch", number),),
    )


def test_a_text_encoder_that_stops_early_stays_where_it_stopped(stage: Stage) -> None:
    """After its share of the steps it stays, its learning rate is 0, and the denoiser goes on."""
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have trained in bf16
    attached = LoraSettings(rank=2, learning_rate=1e-2, text_learning_rate=1e-2, text_until=0.5).attach(
        stage, SUBJECT, 0, None
    )
    loop = Loop(
        stage, attached, TrainingSettings(steps=6), stage.condition, Accelerator(cpu=True, mixed_precision="no")
    )
    seen: dict[str, list[torch.Tensor]] = {group.part: [] for group in attached.groups}
    rates: list[float] = []
    for step in loop.steps(lambda number: [batch(number)]):
        rates.append(step.learning_rates["text_encoder"])
        for group in attached.groups:
            seen[group.part].append(torch.cat([p.detach().flatten() for p in group.parameters]).clone())
    assert rates == [1e-2] * 3 + [0.0] * 3
    moved = {part: [not torch.equal(one, two) for one, two in pairwise(states)] for part, states in seen.items()}
    assert moved["unet"] == [True] * 5
    assert moved["text_encoder"] == [True, True, False, False, False]


def test_a_text_encoder_has_a_rank_and_an_alpha_of_its_own(stage: Stage) -> None:
    """Both reach the layers."""
    LoraSettings(rank=4, alpha=4, text_rank=2, text_alpha=6, text_learning_rate=1e-3).attach(stage, SUBJECT, 0, None)
    for part, rank, scale in (("unet", 4, 1.0), ("text_encoder", 2, 3.0)):
        for _, layer in lora_layers(stage.parts[part]):
            assert layer.lora_A["default"].weight.shape[0] == rank
            assert layer.scaling["default"] == scale


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (("training.optimizer=schedule-free", "training.lr_schedule=cosine"), r"training\.lr_schedule=constant"),
        (("training.optimizer=schedule-free", "training.ema_decay=0.9"), r"training\.ema_decay=none"),
        (("training.optimizer=prodigy", "method.learning_rate=1e-3"), r"method\.learning_rate=1"),
        (("base_weights=int8", "method.variant=dora"), r"method\.variant=lora"),
        (("base_weights=nf4", "method.variant=lokr"), r"method\.variant=lora"),
        (("dataset.masked=0.5", "dataset.templates=['x {token}']", "photos=['{photos}/0.png']"), None),
    ],
)
def test_settings_that_undo_each_other_are_refused(
    tiny_base: Path, photos: Path, tmp_path: Path, overrides: tuple[str, ...], remedy: str | None
) -> None:
    """One sentence with the remedy, and no folder is left; the last is allowed, and runs."""
    recipe = recipe_of(tiny_base, photos, *(text.replace("{photos}", str(photos)) for text in overrides))
    if remedy is None:
        assert trained(recipe, tmp_path / "run").adapter.exists()
        return
    with pytest.raises(UserError, match=remedy):
        trained(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_learns_as_a_whole_cannot_be_quantised(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    """One sentence, before anything is drawn, and no folder is left."""
    recipe = Recipe.preset(
        base=str(tiny_base),
        overrides=(*COMMON[:-1], 'method.name="dreambooth"', "base_weights=nf4"),
        photos=(str(photos),),
        class_noun="dog",
    )
    with pytest.raises(UserError, match="base_weights"):
        trained(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_memory_is_refused_before_training(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed, what is there, and settings that make it smaller."""
    monkeypatch.setattr("mascot.models.devices.available_memory", lambda _: 2**20)
    with pytest.raises(UserError, match=r"1\.0 MiB are available.*gradient_checkpointing"):
        trained(recipe_of(tiny_base, photos), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rehearsal_takes_no_step(stage: Stage) -> None:
    """Nothing has moved, no gradient is left, and the steps after it are those without it."""
    losses: list[list[float]] = []
    for rehearsals in (0, 2):
        attached = LoraSettings(rank=2, learning_rate=1e-2, text_learning_rate=0).attach(stage, SUBJECT, 0, None)
        loop = Loop(
            stage, attached, TrainingSettings(steps=3), stage.condition, Accelerator(cpu=True, mixed_precision="no")
        )
        for _ in range(rehearsals):
            assert time_one_step(loop, [batch(0)]) > 0
            assert all(parameter.grad is None for parameter in loop.parameters())
        losses.append([step.loss for step in loop.steps(lambda number: [batch(number)])])
        attached.detach()
    assert losses[0] == losses[1]
