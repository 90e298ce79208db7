"""Laws of every method on every family: what is trained is what is exported and restored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from mascot.api.train import train
from mascot.data.encoding_cache import CachedEncoders
from mascot.diffusion.loss import training_loss
from mascot.diffusion.noise import seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator
from mascot.methods.registry import METHODS, settings_of
from mascot.models.families.registry import load_family
from mascot.progress import Event, StepTrained
from mascot.protocols import AttachedMethod, Batch, Family, Latents, Stage
from mascot.recipe.recipe import Recipe
from mascot.runs.batch_loader import BatchLoader
from mascot.runs.inputs import load_base, read_subject
from mascot.storage.run_folder import Run
from mascot.training.loop import Loop
from mascot.training.settings import TrainingSettings
from tiny.families import CASCADES, MAKERS, tiny_base
from tiny.stable_diffusion import SUBJECT, tiny_stable_diffusion

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("sd", *MAKERS, *CASCADES)
WORDLESS = {"deepfloyd_if", "deepfloyd_if_cascade"}
"""Families whose only text encoder is a T5, which never learns."""
WORDY = {"textual-inversion", "pivotal"}
"""Methods that teach a word."""
PAIRS = [(family, method) for family in FAMILIES for method in METHODS]
TAUGHT = [pair for pair in PAIRS if not (pair[0] in WORDLESS and pair[1] in WORDY)]
REFUSED = [pair for pair in PAIRS if pair not in TAUGHT]
QUICK = [pytest.param(*pair, marks=() if pair[0] == "sd" else pytest.mark.slow) for pair in TAUGHT]
"""The pairs: the default run takes those of one family, `make pairs` the others."""
STEPS = 4
SIDE = 64
PROMPT = "a photo of a sks dog in the snow"
COMMON = (
    f"training.steps={STEPS}",
    "training.checkpoint_every=1000",
    "training.warmup_steps=0",
    "training.lr_schedule=constant",
    "previews.every=0",
    "knobs.steps=2",
    "knobs.guidance=3",
    "prior.count=2",
    "prior.steps=1",
    "precision=fp32",
    "device=cpu",
    "training.batch_size=1",
    "training.gradient_accumulation_steps=1",
    "training.optimizer=adamw",
)
RATES = {
    "lora": ("method.learning_rate=1e-2", "method.rank=2", "method.text_learning_rate={text}"),
    "dreambooth": ("method.learning_rate=1e-4", "method.text_learning_rate={text}"),
    "textual-inversion": ("method.learning_rate=1e-2", "method.vectors=2"),
    "pivotal": (
        "method.token.learning_rate=1e-2",
        "method.layers.learning_rate=1e-2",
        "method.layers.rank=2",
        "method.layers.text_learning_rate={text}",
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Family's name -> a base of it, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("bases")

    class Bases(dict[str, str]):
        def __missing__(self, name: str) -> str:
            where = folder / name
            self[name] = str(tiny_stable_diffusion(where) if name == "sd" else tiny_base(name, where))
            return self[name]

    return Bases()


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class pictures lie beside the photos of the module's tests."""
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))


def recipe_of(bases: dict[str, str], family: str, method: str, home: Path, *more: str) -> Recipe:
    """A short run of a pair; text encoders learn where they can."""
    rates = [learning_rate.format(text=0 if family in WORDLESS else 1e-4) for learning_rate in RATES[method]]
    overrides = (*COMMON, f"dataset.resolution={SIDE}", f'method.name="{method}"', *rates, *more)
    return Recipe.preset(base=bases[family], overrides=overrides, photos=(str(home / "photos"),), class_noun="dog")


def material_of(recipe: Recipe, base: Family, stage: Stage) -> BatchLoader:
    """One stage's examples of one photo, without class images, at the stage's resolution."""
    photos = read_subject(recipe)
    one = replace(photos, photos=photos.photos[:1])
    side = SIDE * stage.resolution // base.stages[-1].resolution
    return BatchLoader(recipe=recipe, photos=one, encoders=CachedEncoders(stage), resolution=side, class_images={})


def attach_to(recipe: Recipe, stage: Stage) -> Iterator[tuple[AttachedMethod, float]]:
    """Each phase's learner, attached in turn, with its share of the steps."""
    method: Any = recipe.method
    before: AttachedMethod | None = None
    for leg in method.phases:
        attached: AttachedMethod = leg.phase.attach(stage, SUBJECT, 0, before)
        before = attached
        yield attached, leg.share


def bits(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Every parameter and buffer that is there, by the object that holds it."""
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def learning(attached: AttachedMethod) -> set[int]:
    return {parameter.data_ptr() for group in attached.groups for parameter in group.parameters}


def drawn(generator: Generator) -> np.ndarray:
    knobs = Knobs(steps=2, guidance=3.0, height=SIDE, width=SIDE)
    return np.asarray(next(iter(generator.generate([ImageRequest(PROMPT, 5)], knobs))), np.int16)


@pytest.mark.parametrize(("family", "method"), TAUGHT)
def test_only_what_is_exported_moves_and_the_loss_on_one_photo_falls(
    bases: dict[str, str], family: str, method: str, home: Path
) -> None:
    """A weight decay would show on anything else; after detaching, the base has its own bits."""
    recipe = recipe_of(bases, family, method, home, "prior.weight=0")
    base = load_base(recipe)
    for stage in base.stages:
        before = bits(dict(stage.parts))
        batch = material_of(recipe, base, stage).batches(0)[0]
        settings = TrainingSettings(steps=12, weight_decay=0.5)
        losses: list[float] = []
        attached: AttachedMethod | None = None
        for attached, _ in attach_to(recipe, stage):
            accelerator = Accelerator(cpu=True, mixed_precision="no")
            loop = Loop(stage, attached, settings, stage.condition, accelerator)
            losses += [step.loss for step in loop.steps(lambda _, batch=batch: [anew(batch)])]
            still = {key: value for key, value in named(stage) if value.data_ptr() not in learning(attached)}
            for key, value in still.items():
                known = before.get(key)
                if known is not None:
                    assert torch.equal(value, known), key
        assert losses[-1] < losses[0]
        assert attached is not None
        tensors, _ = attached.export()
        assert sum(tensor.numel() for tensor in tensors.values()) >= sum(
            p.numel() for g in attached.groups for p in g.parameters
        )
        attached.detach()
        after = bits(dict(stage.parts))
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)


def named(stage: Stage) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer as it is called without wrappers."""
    for part, module in stage.parts.items():
        for name, tensor in module.state_dict().items():
            yield f"{part}.{name.replace('.base_layer', '')}", tensor


def anew(batch: Batch) -> Batch:
    """The same batch, its randomness from the start."""
    return replace(batch, generators=tuple(seeded("again", i) for i in range(len(batch.prompts))))


REDRAW = """
import json, sys
import numpy as np
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator
for place, (adapter, side) in enumerate(json.loads(sys.argv[1])):
    generator, _, _ = open_generator(adapter, device="cpu")
    knobs = Knobs(steps=2, guidance=3.0, height=side, width=side)
    picture = next(iter(generator.generate([ImageRequest(sys.argv[2], 5)], knobs)))
    np.save(f"{sys.argv[3]}/{place}.npy", np.asarray(picture, np.int16))
"""


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family == "sd" else pytest.mark.slow) for family in FAMILIES]
)
def test_a_file_draws_the_same_in_a_new_process(bases: dict[str, str], family: str, home: Path, tmp_path: Path) -> None:
    """Train, then generate in a fresh process from the file alone: 0 difference, and a change."""
    methods = [method for name, method in TAUGHT if name == family]
    runs = {
        method: train(recipe_of(bases, family, method, home), out=tmp_path / method, report=False) for method in methods
    }
    ours = [drawn(open_generator(run, device="cpu")[0]) for run in runs.values()]
    base_only = drawn(Generator(load_family(bases[family], device="cpu", precision="fp32")))
    order = json.dumps([(str(run.adapter), SIDE) for run in runs.values()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", REDRAW, order, PROMPT, str(tmp_path)], check=True, env=environment)
    for place, (method, image) in enumerate(zip(methods, ours, strict=True)):
        assert np.array_equal(np.load(tmp_path / f"{place}.npy"), image), method
        assert not np.array_equal(image, base_only), method


@pytest.mark.parametrize(("family", "method"), TAUGHT)
def test_both_forms_of_prior_preservation(bases: dict[str, str], family: str, method: str, home: Path) -> None:
    """The base's own prediction is the target: no loss at first, then one that pulls back."""
    recipe = recipe_of(bases, family, method, home, "prior.form=outputs", "prior.weight=0.5")
    base = load_base(recipe)
    stage = base.stages[-1]
    batch_loader = material_of(recipe, base, stage)
    batch = batch_loader.batches(0)[0]
    assert batch.base_target_B is not None
    assert batch.base_target_B.tolist() == [False, True]
    assert batch.weight_B.tolist() == pytest.approx([1.0, 0.5])
    for attached, _ in attach_to(recipe, stage):
        with torch.no_grad():
            _, fresh_B = training_loss(stage, anew(batch), stage.condition, attached.base_only)
            push(attached)
            _, error_B = training_loss(stage, anew(batch), stage.condition, attached.base_only)
        assert fresh_B[1] == 0 or attached.groups[0].part != stage.denoiser or fresh_B[1] < 1e-9
        assert error_B[0] != fresh_B[0]
        push(attached, -0.05)
    images = recipe_of(bases, family, method, home, "prior.weight=0.5")
    with_class = replace(
        material_of(images, base, stage), class_images={"dog": [Image.new("RGB", (SIDE, SIDE), "red")]}
    )
    both = with_class.batches(0)[0]
    assert both.base_target_B is None
    assert both.prompts[1] == "a photo of a dog"
    assert both.weight_B.tolist() == pytest.approx([1.0, 0.5])


def push(attached: AttachedMethod, amount: float = 0.05) -> None:
    """Move everything that learns."""
    for group in attached.groups:
        for number, parameter in enumerate(group.parameters):
            parameter.data.add_(amount * torch.randn(parameter.shape, generator=seeded("push", group.part, number)))


def halves(batch: Batch) -> list[Batch]:
    """The same examples, one a micro-batch."""
    count = len(batch.prompts)
    return [
        replace(
            batch,
            latents=Latents(
                mean_BCHW=batch.latents.mean_BCHW[i : i + 1], deviation_BCHW=batch.latents.deviation_BCHW[i : i + 1]
            ),
            prompts=batch.prompts[i : i + 1],
            framings=batch.framings[i : i + 1],
            weight_B=batch.weight_B[i : i + 1],
            subject_count=1,
            generators=(seeded("again", i),),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("family", "method"), TAUGHT)
def test_two_accumulated_are_a_batch_of_two(bases: dict[str, str], family: str, method: str, home: Path) -> None:
    """Gradients of 2 x 1 equal those of a batch of 2 within rounding."""
    recipe = recipe_of(bases, family, method, home, "prior.weight=0", "training.batch_size=2")
    base = load_base(recipe)
    for stage in base.stages:
        batch = material_of(recipe, base, stage).batches(0)[0]
        for attached, _ in attach_to(recipe, stage):
            push(attached, 0.01)
            loop = Loop(
                stage, attached, TrainingSettings(steps=1), stage.condition, Accelerator(cpu=True, mixed_precision="no")
            )
            gradients: list[list[Tensor]] = []
            for micro in ([anew(batch)], halves(batch)):
                loop.accumulate(micro)
                gradients.append([p.grad.clone() for p in loop.parameters() if p.grad is not None])
                loop.optimizer.zero_grad()
            scale = max(float(g.abs().max()) for g in gradients[0])
            assert scale > 0
            worst = max(float((one - two).abs().max()) for one, two in zip(*gradients, strict=True))
            assert worst <= 1e-3 * scale
            push(attached, -0.01)


@pytest.mark.parametrize(("family", "method"), QUICK)
def test_stopped_and_resumed_is_never_stopped(
    bases: dict[str, str], family: str, method: str, home: Path, tmp_path: Path
) -> None:
    """Stopped after every step in turn, phases' and stages' ends among them: the same bytes."""
    recipe = recipe_of(bases, family, method, home)
    whole = train(recipe, out=tmp_path / "whole", report=False)
    run = Run(tmp_path / "stopped")
    for times in range(len(whole.read_steps())):
        stop_after(recipe, run, 1, resume=times > 0)
    train(recipe, out=run.folder, resume=True, report=False)
    assert run.adapter.read_bytes() == whole.adapter.read_bytes()
    assert run.steps.read_bytes() == whole.steps.read_bytes()


def stop_after(recipe: Recipe, run: Run, steps: int, *, resume: bool) -> None:
    """Train some steps and stop as Ctrl-C does."""
    taken = 0

    def stopping(event: Event) -> None:
        nonlocal taken
        taken += isinstance(event, StepTrained)
        if taken == steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=run.folder, resume=resume, on_event=stopping, report=False)


@pytest.mark.parametrize(("family", "method"), REFUSED)
def test_a_word_cannot_be_taught_to_a_t5(
    bases: dict[str, str], family: str, method: str, home: Path, tmp_path: Path
) -> None:
    """One sentence, with another method in it, and nothing is left behind."""
    with pytest.raises(UserError, match="T5 never is"):
        train(recipe_of(bases, family, method, home), out=tmp_path / "run", report=False)
    assert not (tmp_path / "run").exists()


def test_every_method_has_its_settings() -> None:
    """The table names modules whose settings call themselves what the table calls them."""
    assert [settings_of(name)().name for name in METHODS] == list(METHODS)
