"""The law that accepted means used, for every setting of a recipe, made from the schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from PIL import Image
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mascot.adapters.adapter_file import Adapter
from mascot.api.generate import generate
from mascot.api.train import train
from mascot.cli.options import build_recipe
from mascot.methods.registry import METHODS, settings_of
from mascot.recipe.recipe import Recipe
from tiny.captioners import tiny_captioner
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import noise
from tiny.stable_diffusion import tiny_stable_diffusion

COMMON = (
    "training.steps=4",
    "training.warmup_steps=0",
    "training.checkpoint_every=1000",
    "previews.every=4",
    'previews.prompts=["a {subject}"]',
    "knobs.steps=2",
    "prior.count=1",
    "prior.weight=1",
    "prior.steps=1",
    "precision=fp32",
    "device=cpu",
    "token=sks",
    "dataset.resolution=64",
)
"""Overrides of every run; a setting that is tried replaces its own."""
OFF = ("selection.active=false", "diagnosis.active=false")
SELECTED = ("selection.cost=100", "selection.checkpoints=2", "diagnosis.active=false")
DIAGNOSED = ("selection.active=false", "diagnosis.active=true")
SECTION_CONTEXT = {"selection": SELECTED, "diagnosis": DIAGNOSED, "report": DIAGNOSED}
"""Section -> the overrides with which its settings are tried, instead of OFF."""
CONTEXT = {
    "selection.active": ("selection.cost=100", "diagnosis.active=false"),
    "selection.cost": ("selection.knobs=false", "diagnosis.active=false"),
    "method.text_until": ("method.text_learning_rate=1e-3",),
    "method.text_rank": ("method.text_learning_rate=1e-3",),
    "method.text_alpha": ("method.text_learning_rate=1e-3",),
    "knobs.text_scale": ("method.text_learning_rate=1e-3",),
    "zero_terminal_snr": ("prediction=v",),
    "dataset.keep_tags": ("dataset.shuffle_tags=true",),
    "checkpoints.keep": ("training.checkpoint_every=1",),
}
"""Setting -> overrides that it needs; only with them is it used."""
VALUES: dict[str, object] = {
    "token": "xyz",
    "class_noun": "cat",
    "base_weights": "nf4",
    "prediction": "v",
    "zero_terminal_snr": True,
    "dataset.background": "black",
    "dataset.resolution": 32,
    "dataset.masked": 0.1,
    "training.min_snr": 0.5,
    "training.ema_decay": 0.5,
    "training.max_grad_norm": 1e-6,
    "training.steps": 3,
    "previews.every": 2,
    "knobs.negative": "a cat",
    "knobs.solver": "dpm++",
    "knobs.height": 96,
    "knobs.width": 96,
    "method.text_rank": 3,
    "method.text_alpha": 3.0,
    "method.text_learning_rate": 2e-3,
    "method.initial": "cat",
    "method.extract_rank": 2,
    "prior.count": 2,
    "start_from": "the run before",
    "selection.identity": "other_identity",
    "selection.clip": "other_clip",
    "selection.cost": 100.0,
    "dataset.caption_with": "captioner",
    "prior.folder": "class_images",
}
"""Setting -> another value than its own; the others get one by their kind."""
PLACES = {"selection.identity", "selection.clip", "dataset.caption_with", "prior.folder"}
"""Settings whose values are paths in the folder of the trials."""
UNUSED = {"prior.form": ("prior.",), "selection.active": ("selection.cost",)}
"""Setting -> the beginnings of keys that its other value leaves without effect, and refuses."""
EXEMPT = {
    "base": "another base is another model",
    "photos": "other photos are another subject",
    "tables": "several subjects have laws of their own",
    "knobs.true_guidance": "only a base that embeds its guidance scale has it, which has tests of its own",
    "device": "only one device is here",
    "training.gradient_checkpointing": "it changes memory, not numbers",
    "training.compile": "it changes speed, not numbers; compiling takes minutes",
    "training.checkpoint_every": "it decides where a killed run goes on, not its result",
    "selection.patience": "a short run has too few validations to stop early",
}
"""Setting -> why it is not tried here."""
NAMES = ("0", "a_red_dog")
"""Names of the photos: one that has a caption beside it, and one that is a caption."""
SAMPLE = ("dataset.flip", "prior.guidance")
"""Settings that are tried in every test run; the others are slow together."""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """List the settings of a model by dotted key."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if field.annotation is not BaseModel:
                yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def cases() -> Iterator[Any]:
    """List every pair of method and setting; those outside `method` are tried with LoRA alone."""
    for method in METHODS:
        own = [key for key, _ in leaves(settings_of(method), "method.") if not key.endswith(".name")]
        others = [key for key, _ in leaves(Recipe) if key not in EXEMPT] if method == "lora" else []
        for key in (*own, *others):
            marks = [] if method == "lora" and key in SAMPLE else [pytest.mark.slow]
            yield pytest.param(method, key, marks=marks, id=f"{method} {key}")


def other_value(field: FieldInfo, value: object, key: str) -> object:
    """Choose another value for a setting than its own."""
    short = key.replace("method.token.", "method.").replace("method.layers.", "method.")
    if short in VALUES:
        return VALUES[short]
    choices = [kind for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal]
    if choices:
        return next(choice for choice in get_args(choices[0]) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, tuple):
        return ("the {subject}, outdoors",)
    pytest.fail(f"{key} needs another value than {value!r} in VALUES, or a reason in EXEMPT")


@cache
def place(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Make a base, photos of every kind, and encoders; returns the overrides that name these."""
    photos = folder / "photos"
    photos.mkdir()
    image = alpha = noise(96, 64)
    for number in range(2):
        image = noise(96, 64 + 16 * number)
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, 24, 24))
        image.putalpha(alpha)
        image.save(photos / f"{NAMES[number]}.png")
        alpha.save(photos / f"{NAMES[number]}.mask.png")
    (photos / f"{NAMES[0]}.txt").write_text("a dog, small, red\na dog in the snow, at night", encoding="utf-8")
    (photos / "deeper").mkdir()
    image.save(photos / "deeper" / "more.png")
    alpha.save(photos / "deeper" / "more.mask.png")
    encoders = tiny_identity(folder / "identity"), tiny_clip(folder / "clip")
    tiny_identity(folder / "other_identity", seed=1)
    tiny_clip(folder / "other_clip", seed=1)
    tiny_captioner("blip", folder / "captioner")
    (folder / "class_images").mkdir()
    noise(80, 80).save(folder / "class_images" / "0.png")
    named = (f"selection.identity={encoders[0]}", f"selection.clip={encoders[1]}")
    return tiny_stable_diffusion(folder / "base"), photos, named


def result(recipe: Recipe, folder: Path) -> dict[str, object]:
    """Train a recipe, and collect what a user sees of the result, but for its settings."""
    run = train(recipe, out=folder, report=recipe.diagnosis.active)
    adapter = Adapter.read(run.adapter)
    assert adapter.manifest is not None
    image = generate(run, [f"a {adapter.manifest.token} dog"], count=1)[0]
    found: dict[str, object] = {
        "tensors": {key: tensor.numpy().tobytes() for key, tensor in adapter.tensors.items()},
        "manifest": adapter.manifest.model_dump(exclude={"recipe"}),
        "image": (image.size, image.tobytes()),
    }
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".png":
            with Image.open(file) as opened:
                found[name] = (opened.size, opened.tobytes())
        elif file.name in {"diagnosis.json", "selection.json"}:
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            found[name] = len(file.read_bytes())
    return found


@dataclasses.dataclass
class Trials:
    """Results of recipes by their text, so that no recipe is trained twice."""

    folder: Path
    results: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict[str, dict[str, object]])

    def run(
        self, method: str, *overrides: str, changed: str = "", unused: tuple[str, ...] = ()
    ) -> tuple[Recipe, dict[str, object]]:
        """Train a recipe of the command line.

        `changed` is the setting that is tried, beside which those that begin with `unused` are
        left out.
        """
        base, photos, encoders = place(self.folder)
        ranked = ("method.rank=2",) if method == "lora" else ("method.layers.rank=2",) if method == "pivotal" else ()
        given = [one for one in (*COMMON, *overrides) if not (unused and one.startswith(unused))]
        recipe = build_recipe(
            None,
            photos=[photos],
            class_noun=None,
            base=str(base),
            overrides=["class_noun=dog", f"method.name={method}", *encoders, *ranked, *given, *filter(None, [changed])],
            token=None,
            seed=None,
            method=None,
            steps=None,
        )
        text = recipe.to_toml()
        if text not in self.results:
            self.results[text] = result(recipe, self.folder / "runs" / str(len(self.results)))
        return recipe, self.results[text]

    def value_of(self, key: str, value: object, recipe: Recipe) -> object:
        """The other value of a setting, in the folder of the trials if it is a path."""
        if key == "start_from":
            return str(self.folder / "runs" / str(list(self.results).index(recipe.to_toml())))
        return str(self.folder / str(value)) if key in PLACES else value


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """A place for the runs, with a cache of its own."""
    folder = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(folder / "cache"))
        yield Trials(folder)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers' solvers
@pytest.mark.parametrize(("method", "key"), list(cases()))
def test_a_setting_changes_the_result(trials: Trials, method: str, key: str) -> None:
    section, short = key.partition(".")[0], key.replace("method.layers.", "method.")
    context = [*SECTION_CONTEXT.get(section, OFF), *CONTEXT.get(key, ())]
    if key in CONTEXT and section == "selection":
        context = list(CONTEXT[key])
    if short in CONTEXT and short != key:
        context += [one.replace("method.", "method.layers.") for one in CONTEXT[short]]
    recipe, before = trials.run(method, *context)
    fields = dict(leaves(Recipe)) | dict(leaves(settings_of(method), "method."))
    own: Any = recipe
    for part in key.split("."):
        own = getattr(own, part)
    value = trials.value_of(key, other_value(fields[key], own, key), recipe)
    assert value != own
    _, after = trials.run(method, *context, changed=f"{key}={json.dumps(value)}", unused=UNUSED.get(key, ()))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed, f"{key} = {value!r} changes nothing, and is not refused"


def test_every_exemption_is_a_setting_and_has_a_reason() -> None:
    known = {key for key, _ in leaves(Recipe)} | {
        key for method in METHODS for key, _ in leaves(settings_of(method), "method.")
    }
    assert known >= EXEMPT.keys() | {key for key in CONTEXT if key in known}
    assert all(EXEMPT.values())
    assert set(SAMPLE) <= known
