"""Laws of several subjects: every method trains two by the command, on every family that it can."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from laws.test_every_pair import RATES, WORDLESS, WORDY
from mascot.adapters.adapter_file import Adapter
from mascot.api.experiments.cross_validate import cross_validate
from mascot.api.train import train
from mascot.cli.app import main
from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.experiments.sweep import check_one_subject
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator, plan_requests
from mascot.methods.registry import METHODS
from mascot.recipe.recipe import Recipe
from tiny.families import MAKERS
from tiny.families import tiny_base as make_base
from tiny.photos import noise
from tiny.world import World

FAST = (
    "training.batch_size=2",
    "training.warmup_steps=0",
    "prior.count=2",
    "prior.steps=1",
    "prior.weight=0.5",
    "previews.every=0",
    "selection.active=false",
    "diagnosis.active=false",
    "knobs.steps=1",
    "precision=fp32",
    "training.steps=4",
    "device=cpu",
)
PAIRS = [
    (family, method) for family in (*MAKERS, "sd") for method in METHODS if not (family in WORDLESS and method in WORDY)
]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two folders of photos, of three and of one."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    for name, count in (("owl", 3), ("cat", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            image = noise(64, 64)
            image.paste((40 * number, 90 if name == "owl" else 200, 10), (8, 8, 40, 40))
            image.save(tmp_path / name / f"{number}.png")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["mascot", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def options(method: str, *more: str) -> list[str]:
    """Write settings as options of the command."""
    rates = [rate.format(text=1e-4) for rate in RATES[method]]
    return [part for setting in (f"method.name={method}", *rates, *FAST, *more) for part in ("--set", setting)]


METHODS_BY_COMMAND = [pytest.param(name, marks=[pytest.mark.slow] * (name != "textual-inversion")) for name in METHODS]


@pytest.mark.parametrize("method", METHODS_BY_COMMAND)
def test_two_subjects_are_trained_and_generated_by_the_command(
    method: str, photos: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, images = photos / "run", photos / "images"
    given = [photos / "owl", photos / "cat", "--class-noun", "owl,cat", "--token", "sks,zwx", "--base", tiny_base]
    assert command(monkeypatch, "train", *given, "--out", run, *options(method)) == 0
    manifest = Adapter.read(run / "adapter.safetensors").manifest
    assert manifest is not None
    assert [(one.name, one.words) for one in manifest.subject.all] == [("owl", "sks owl"), ("cat", "zwx cat")]
    assert "sks owl and zwx cat" in (run / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    prompts = ["{owl} and a {cat}", "a {subject} at night"]
    assert command(monkeypatch, "generate", run, *prompts, "--count", "1", "--out", images) == 0
    names = sorted(path.stem for path in images.iterdir())
    assert len(names) == 3
    assert command(monkeypatch, "generate", run, "a {owll}", "--count", "1", "--out", images) == 2
    assert "did you mean 'owl'?" in capsys.readouterr().err


def recipe_of(base: Path, photos: Path, method: str, *more: str) -> Recipe:
    """A short run of two subjects."""
    rates = [rate.format(text=0 if "deepfloyd" in base.name else 1e-4) for rate in RATES[method]]
    subjects = [
        {"photos": [str(photos / "owl")], "class_noun": "owl", "token": "sks"},
        {"photos": [str(photos / "cat")], "class_noun": "cat", "token": "zwx"},
    ]
    overrides = [f'method.name="{method}"', *rates, *FAST, "dataset.resolution=64", *more]
    return Recipe.preset(base=str(base), subject=subjects, overrides=overrides)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_every_pair_restores_what_it_trained_of_both_subjects(
    family: str, method: str, photos: Path, tiny_base: Path
) -> None:
    base = tiny_base if family == "sd" else tiny_base_of(family, photos)
    try:
        run = train(recipe_of(base, photos, method), out=photos / "run", report=False)
    except UserError as error:
        pytest.skip(str(error))
    generator, adapter, _ = open_generator(run)
    assert adapter.manifest is not None
    knobs = Knobs(steps=2, guidance=3.0, height=64, width=64)
    off = knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})
    for one in adapter.manifest.subject.all:
        request = ImageRequest(fill("a photo of a {subject}", one), 0)
        [trained], [plain] = list(generator.generate([request], knobs)), list(generator.generate([request], off))
        assert trained.tobytes() != plain.tobytes()
    generator.remove_adapter()


def tiny_base_of(family: str, folder: Path) -> Path:
    """Make a tiny base of a family."""
    return make_base(family, folder / family)


def test_both_tokens_are_learned_and_restored(photos: Path, tiny_base: Path) -> None:
    run = train(recipe_of(tiny_base, photos, "textual-inversion"), out=photos / "run", report=False)
    adapter = Adapter.read(run.adapter)
    assert {key.split(".")[1] for key in adapter.tensors} == {"sks", "zwx"}
    assert (run.folder / "token_owl.safetensors").exists()
    alone = Adapter.read(run.folder / "token_cat.safetensors")
    assert torch.equal(alone.tensors["zwx"], adapter.tensors["bundle_emb.zwx.zwx"])
    generator, _, _ = open_generator(run)
    requests = plan_requests(adapter, ["a photo of a {subject}", "a {owl} and a {cat}"], count=1, seed=0)
    assert [request.prompt for request in requests] == [
        "a photo of a sks owl",
        "a photo of a zwx cat",
        "a sks owl and a zwx cat",
    ]
    knobs = Knobs(steps=2, guidance=3.0, height=64, width=64)
    trained = [image.tobytes() for image in generator.generate(requests, knobs)]
    generator.remove_adapter()
    plain = [image.tobytes() for image in Generator(generator.family).generate(requests, knobs)]
    assert all(one != other for one, other in zip(trained, plain, strict=True))


def test_a_stopped_run_of_two_subjects_ends_in_the_same_bytes(photos: Path, tiny_base: Path) -> None:
    recipe = recipe_of(tiny_base, photos, "pivotal", "training.checkpoint_every=1")
    whole = train(recipe, out=photos / "whole", report=False)
    train(recipe, out=photos / "stopped", report=False, until=3)
    resumed = train(recipe, out=photos / "stopped", resume=True, report=False)
    assert resumed.adapter.read_bytes() == whole.adapter.read_bytes()


def test_one_photo_is_not_two_subjects(photos: Path, tiny_base: Path) -> None:
    (photos / "cat" / "1.png").write_bytes((photos / "owl" / "0.png").read_bytes())
    with pytest.raises(UserError, match=r"0\.png of owl and 1\.png of cat are the same photo; keep it for one"):
        train(recipe_of(tiny_base, photos, "lora"), out=photos / "run")
    assert not (photos / "run" / "recipe.toml").exists()


def test_what_is_of_one_subject_is_refused_by_name(photos: Path, tiny_base: Path) -> None:
    run = train(recipe_of(tiny_base, photos, "lora", "training.steps=1"), out=photos / "run", report=False)
    with pytest.raises(UserError, match="holds several subjects, and --cross-validate is of one"):
        cross_validate(run.folder)
    with pytest.raises(UserError, match="one subject, as has the adapter; train several without --from"):
        Recipe.preset(start_from=str(run.folder), photos=[str(photos / "owl")])
    with pytest.raises(UserError, match="a sweep compares runs of one subject, and the recipe has 2"):
        check_one_subject(recipe_of(tiny_base, photos, "lora"))


@pytest.mark.slow
def test_the_checkpoint_is_chosen_by_the_mean_of_the_subjects(photos: Path, tiny_base: Path, world: World) -> None:
    settings = {
        "selection.active": "true",
        "selection.checkpoints": "2",
        "selection.knobs": "false",
        "selection.cost": "100",
        "selection.identity": str(world.identity),
        "selection.clip": str(world.clip),
        "training.steps": "8",
    }
    recipe = recipe_of(tiny_base, photos, "lora", *(f"{key}={value}" for key, value in settings.items()))
    run = train(recipe, out=photos / "run", report=False)
    selector = json.loads(run.selection.read_text(encoding="utf-8"))["selector"]
    assert selector["names"] == ["owl", "cat"]
    for result in selector["results"]:
        each = [one["total"] for one in result["score"]["each"]]
        assert len(each) == 2
        assert result["score"]["total"] == pytest.approx(sum(each) / 2)
