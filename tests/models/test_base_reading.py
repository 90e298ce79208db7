"""Laws of reading a base: prediction, terminal SNR and clip skip are diffusers', and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from transformers import CLIPTextModel

from mascot.adapters.adapter_file import Adapter
from mascot.cli.app import main
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from tiny.families import tiny_base as family_base

PROMPT = "a photo of a sks dog in the snow"
SMALL = (
    *("training.steps=2", "training.checkpoint_every=2", "training.batch_size=1", "dataset.resolution=64"),
    *("knobs.steps=2", "previews.every=0", "prior.weight=0", "method.rank=2", "precision=fp32", "device=cpu"),
    *("selection.active=false", "diagnosis.active=false"),
)


def read(base: Path, **settings: Any) -> Any:
    """A base as settings read it."""
    return load_family(str(base), device="cpu", precision="fp32", reading=BaseReading(**settings))


def ours(base: Path, guidance: float = 3, **settings: Any) -> np.ndarray:
    """One image by our generator."""
    image = next(
        iter(Generator(read(base, **settings)).generate([ImageRequest(PROMPT, 5)], Knobs(steps=3, guidance=guidance)))
    )
    return np.asarray(image, np.float64)


def theirs(base: Path, scheduler: dict[str, Any] | None = None, **options: Any) -> np.ndarray:
    """The same image by diffusers."""
    pipeline: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **(scheduler or {}))
    noise = gaussian((4, pipeline.unet.config.sample_size, pipeline.unet.config.sample_size), [seeded("picture", 5)])
    options = {"guidance_scale": 3.0, "num_inference_steps": 3, "output_type": "np", "negative_prompt": ""} | options
    return np.asarray(pipeline(PROMPT, latents=noise, **options).images[0], np.float64) * 255


SCHEDULES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"prediction": "v"}, {"prediction_type": "v_prediction"}),
    (
        {"prediction": "v", "zero_terminal_snr": True},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
)


@pytest.mark.parametrize(("settings", "scheduler"), SCHEDULES)
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_base_generates_by_what_it_is_said_to_predict(
    kind: str, settings: dict[str, Any], scheduler: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    base = tiny_base if kind == "sd" else family_base(kind, tmp_path / kind)
    assert np.abs(ours(base, **settings) - theirs(base, scheduler)).max() <= 1.01
    assert np.abs(ours(base, **settings) - ours(base)).max() > 1
    stage = read(base, **settings).stages[0]
    assert stage.objective.prediction == "v_prediction"
    assert (float(stage.objective.alphas_cumprod_T[-1]) == 0) == bool(settings.get("zero_terminal_snr"))
    stage.save(tmp_path / "saved")
    again = read(tmp_path / "saved").stages[0]
    assert torch.equal(again.objective.alphas_cumprod_T, stage.objective.alphas_cumprod_T)
    assert again.objective.prediction == "v_prediction"


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_clip_skip_is_diffusers_clip_skip(
    kind: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base if kind == "sd" else family_base(kind, tmp_path / kind)
    # diffusers asks for a wrapper that transformers 5 dropped.
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    if kind == "sd3":
        pipeline: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        options = {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
        with torch.no_grad():
            wanted = pipeline.encode_prompt(PROMPT, **options, clip_skip=1)[0]
            stage = read(base, clip_skip=1).stages[0]
            torch.testing.assert_close(stage.condition([PROMPT], [])["encoder_hidden_states"], wanted)
    else:
        # diffusers skips no layers of the negative prompt, unlike every other tool.
        unguided = theirs(base, clip_skip=1, guidance_scale=1.0)
        assert np.abs(ours(base, clip_skip=1, guidance=1) - unguided).max() <= 1.01
    assert np.abs(ours(base, clip_skip=1) - ours(base)).max() > 0


def test_what_changes_nothing_leaves_the_identity(tiny_base: Path) -> None:
    own = read(tiny_base).identity
    assert read(tiny_base, prediction="epsilon", zero_terminal_snr=False).identity == own
    others = [{"prediction": "v"}, {"prediction": "v", "zero_terminal_snr": True}, {"clip_skip": 1}]
    assert len({own, *(read(tiny_base, **other).identity for other in others)}) == 4


@pytest.mark.parametrize("setting", ["prediction=v", "prediction=epsilon", "zero_terminal_snr=true", "clip_skip=1"])
@pytest.mark.parametrize("kind", ["sd3", "flux", "deepfloyd_if"])
def test_a_family_refuses_by_name_what_it_cannot_use(kind: str, setting: str, tmp_path: Path) -> None:
    """The index alone is enough: nothing is loaded."""
    base = family_base(kind, tmp_path / kind)
    for weights in base.rglob("*.safetensors"):
        weights.unlink()
    if (kind, setting) == ("sd3", "clip_skip=1"):
        return
    name = setting.partition("=")[0]
    with pytest.raises(UserError, match=rf"{name} = \w+ has no meaning .* --set {name}=") as error:
        Recipe.preset(base=str(base), overrides=[setting], photos=("p",), class_noun="dog")
    remedy = str(error.value).rpartition("--set ")[2].rstrip(".")
    Recipe.preset(base=str(base), overrides=[remedy], photos=("p",), class_noun="dog")


def test_noise_is_not_predicted_from_pure_noise(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="zero_terminal_snr=false"):
        read(tiny_base, zero_terminal_snr=True)


def test_more_layers_than_there_are_cannot_be_skipped(tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"clip_skip = 3: text_encoder can spare 2"):
        read(tiny_base, clip_skip=3)
    assert read(tiny_base, clip_skip=2)


@pytest.mark.slow
def test_an_adapter_remembers_how_its_base_was_read(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command trains and generates alike, without another word at generation."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    words = [word for setting in (*SMALL, "prediction=v", "clip_skip=1") for word in ("--set", setting)]
    run = tmp_path / "run"
    command(monkeypatch, "train", home / "photos", "--class-noun", "dog", "--base", tiny_base, "--out", run, *words)
    adapter = Adapter.read(run / "adapter.safetensors")
    assert adapter.manifest is not None
    assert (adapter.manifest.recipe["prediction"], adapter.manifest.recipe["clip_skip"]) == ("v", 1)
    assert adapter.manifest.base_identity == read(tiny_base, prediction="v", clip_skip=1).identity
    command(monkeypatch, "generate", run, PROMPT, "--count", 1, "--seed", 5, "--out", tmp_path / "images")
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a command, which must succeed."""
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
