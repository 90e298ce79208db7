"""Laws of guidance on FLUX: dev embeds a scale and can have true guidance too; schnell does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.cli.app import main
from mascot.cli.options import build_recipe
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings
from mascot.models.families.flux import pack
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from tiny.families import make_flux, tiny_base
from tiny.stable_diffusion import SUBJECT, tiny_stable_diffusion

PROMPT, NEGATIVE = "a photo of a sks dog", "a red cat"


@pytest.fixture(scope="module", params=["dev", "schnell"])
def flux(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A kind of FLUX, and a base of it."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = make_flux(guidance_embeds=request.param == "dev")
    pipeline.save_pretrained(folder)
    return request.param, folder


def ours(base: Path, **knobs: Any) -> np.ndarray:
    """One image by our generator."""
    generator = Generator(load_family(str(base), device="cpu", precision="fp32"))
    made = generator.generate([ImageRequest(PROMPT, 5)], Knobs(steps=3, height=64, width=64, **knobs))
    return np.asarray(next(iter(made)), np.float64)


def theirs(base: Path, **options: Any) -> np.ndarray:
    """The same image by diffusers."""
    pipeline: Any = FluxPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    noise = pack(gaussian((4, 32, 32), [seeded("picture", 5)]))
    options |= {"num_inference_steps": 3, "height": 64, "width": 64, "max_sequence_length": 32, "output_type": "np"}
    return np.asarray(pipeline(PROMPT, latents=noise, **options).images[0], np.float64) * 255


def test_true_guidance_is_diffusers_true_guidance(flux: tuple[str, Path]) -> None:
    kind, base = flux
    if kind == "dev":
        mine = ours(base, guidance=3, true_guidance=4, negative=NEGATIVE)
        wanted = theirs(base, guidance_scale=3.0, true_cfg_scale=4.0, negative_prompt=NEGATIVE)
        assert np.abs(mine - ours(base, guidance=3)).max() > 1
        assert np.abs(mine - ours(base, guidance=2, true_guidance=4, negative=NEGATIVE)).max() > 0
    else:
        mine = ours(base, guidance=4, negative=NEGATIVE)
        wanted = theirs(base, true_cfg_scale=4.0, negative_prompt=NEGATIVE)
        assert np.abs(ours(base, guidance=1) - theirs(base)).max() <= 1.01
    assert np.abs(mine - wanted).max() <= 1.01


@pytest.mark.parametrize("method", ["lora", "dreambooth", "pivotal", "textual-inversion"])
def test_each_kind_has_its_preset(flux: tuple[str, Path], method: str) -> None:
    """Schnell takes few steps and no guidance; for class images too."""
    kind, base = flux
    recipe = Recipe.preset(base=str(base), overrides=[f'method.name="{method}"'], photos=("p",), class_noun="dog")
    steps, guidance = (28, 3.5) if kind == "dev" else (4, 1)
    assert (recipe.knobs.steps, recipe.knobs.guidance) == (steps, guidance)
    if kind == "schnell" and recipe.prior.weight:
        assert (recipe.prior.steps, recipe.prior.guidance) == (4, 1)


def adapter_of(base: Path, path: Path) -> Path:
    """Write an adapter of a base."""
    family = load_family(str(base), device="cpu", precision="fp32")
    attached = LoraSettings(rank=2, text_learning_rate=0).attach(family.stages[0], SUBJECT, 0, None)
    fresh, metadata = attached.export()
    tensors = {key: tensor + 0.01 for key, tensor in fresh.items()}
    manifest = Manifest(
        method="lora",
        base=str(base),
        base_identity=family.identity,
        token="sks",  # noqa: S106 - a word of prompts
        class_noun="dog",
        resolution=64,
        step=1,
        recipe={"knobs": {"steps": 1, "guidance": 3}},
    )
    Adapter(tensors=tensors, metadata=metadata, manifest=manifest).write(path)
    return path


def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object
) -> tuple[int | str | None, str]:
    """Run a command; returns its exit code and its last line on standard error."""
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capfd.readouterr().err.strip().rpartition("\n")[2]


def test_the_command_uses_or_refuses_a_negative_prompt_and_true_guidance(
    flux: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before the base is loaded; each remedy works."""
    kind, base = flux
    adapter = adapter_of(base, tmp_path / "adapter.safetensors")
    words = ("generate", adapter, PROMPT, "--count", 1, "--size", "64x64", "--out", tmp_path / "out")
    if kind == "dev":
        wrong: tuple[object, ...] = ("--negative", NEGATIVE)
        right: tuple[object, ...] = (*wrong, "--true-guidance", 4)
        refused = "--negative has no effect on"
    else:
        wrong, right = ("--true-guidance", 4), ("--guidance", 4, "--negative", NEGATIVE)
        refused = "--true-guidance is for bases that embed their guidance scale"
    code, said = command(monkeypatch, capfd, *words, *wrong)
    assert code == 2
    assert refused in said
    assert not (tmp_path / "out").exists()
    assert command(monkeypatch, capfd, *words, *right)[0] == 0
    [image] = (tmp_path / "out").glob("*.png")
    assert NEGATIVE.encode() in image.read_bytes()
    assert (b"True CFG scale: 4" in image.read_bytes()) == (kind == "dev")


def built(base: Path, *overrides: str) -> Recipe:
    """Build a recipe as `mascot train` does."""
    options: dict[str, Any] = dict.fromkeys(("token", "seed", "method", "steps"))
    return build_recipe(
        None, photos=[Path("p")], class_noun="dog", base=str(base), overrides=list(overrides), **options
    )


def test_a_recipe_with_guidance_that_its_base_cannot_use_is_refused(flux: tuple[str, Path], tmp_path: Path) -> None:
    kind, base = flux
    wrong = "knobs.negative=cat" if kind == "dev" else "knobs.true_guidance=3"
    with pytest.raises(UserError, match=rf"{wrong.partition('=')[0]} has no effect"):
        built(base, wrong)
    right = (
        ("knobs.negative=cat", "knobs.true_guidance=3") if kind == "dev" else ("knobs.negative=cat", "knobs.guidance=3")
    )
    assert built(base, *right).knobs.negative == "cat"
    plain = tiny_stable_diffusion(tmp_path / "plain")
    with pytest.raises(UserError, match="true guidance"):
        built(plain, "knobs.true_guidance=3")
    assert built(plain, "knobs.negative=cat").knobs.negative == "cat"


def test_a_key_without_true_guidance_is_the_older_key() -> None:
    assert "true_guidance" not in Knobs().as_key()
    assert Knobs(true_guidance=2).as_key()["true_guidance"] == 2


def test_damaged_settings_are_refused_before_a_preset_is_chosen(tmp_path: Path) -> None:
    base = tiny_base("flux", tmp_path / "base")
    (base / "transformer" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be loaded"):
        Recipe.preset(base=str(base), photos=("p",), class_noun="dog")
    (base / "transformer" / "config.json").write_text(json.dumps({"guidance_embeds": False}), encoding="utf-8")
    assert Recipe.preset(base=str(base), photos=("p",), class_noun="dog").knobs.guidance == 1
