"""Laws of inpainting bases: they train and generate without an image, as diffusers generates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForInpainting,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from mascot.cli.app import main
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import describe, load_family
from mascot.models.unet_stage import join_empty_image
from tiny.families import tiny_base as family_base
from tiny.single_files import tiny_single_file

PROMPT = "a photo of a sks dog in the snow"


def inpainting(base: Path, *, channels: int = 9, index: str | None = None) -> Path:
    """Give a base's UNet more input channels, with random weights, and another class."""
    torch.manual_seed(0)
    before: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    unet: Any = UNet2DConditionModel.from_config(before.config, in_channels=channels)
    unet.save_pretrained(base / "unet")
    if index is not None:
        file = base / "model_index.json"
        values = json.loads(file.read_text(encoding="utf-8")) | {"_class_name": index}
        file.write_text(json.dumps(values), encoding="utf-8")
    return base


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Path:
    """An inpainting base whose index names it so, as those of the hub do."""
    if request.param == "sd":
        return inpainting(Path(shutil.copytree(tiny_base, tmp_path / "base")), index="StableDiffusionInpaintPipeline")
    return inpainting(family_base("sdxl", tmp_path / "base"), index="StableDiffusionXLInpaintPipeline")


def test_it_generates_what_diffusers_generates_from_an_empty_image(base: Path, tmp_path: Path) -> None:
    family = load_family(str(base), device="cpu", precision="fp32")
    stage: Any = family.stages[0]
    ours = np.asarray(next(iter(Generator(family).generate([ImageRequest(PROMPT, 5)], Knobs(steps=3, guidance=3)))))
    pipeline: Any = AutoPipelineForInpainting.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    image = torch.zeros(1, 3, 64, 64)
    scale = pipeline.vae.config.scaling_factor
    with torch.no_grad():
        empty = pipeline.vae.encode(image).latent_dist.mean * scale
    theirs = pipeline(
        PROMPT,
        negative_prompt="",
        image=image,
        mask_image=torch.ones(1, 1, 64, 64),
        masked_image_latents=empty,
        latents=gaussian(stage.latent_shape(64, 64), [seeded("picture", 5)]),
        strength=1.0,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="np",
    ).images[0]
    assert np.abs(ours - theirs * 255).max() <= 1.01
    stage.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "model_index.json").read_text(encoding="utf-8"))
    assert saved["_class_name"].endswith("InpaintPipeline")
    again = load_family(str(tmp_path / "saved"), device="cpu", precision="fp32")
    same = next(iter(Generator(again).generate([ImageRequest(PROMPT, 5)], Knobs(steps=3, guidance=3))))
    assert np.array_equal(np.asarray(same), ours)


def test_the_autoencoder_is_dropped_again_and_no_fake_value_is_kept(tiny_base: Path, tmp_path: Path) -> None:
    base = inpainting(Path(shutil.copytree(tiny_base, tmp_path / "base")))
    stage: Any = load_family(str(base), device="cpu", precision="fp32").stages[0]
    stage.release_encoders(text=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(torch.zeros(1, 4, 8, 8))
        assert join_empty_image(stage, fake).shape == (1, 9, 8, 8)
    assert stage.encoded_empty == {}
    assert join_empty_image(stage, torch.zeros(2, 4, 8, 12)).shape == (2, 9, 8, 12)
    assert not stage.image_codec.is_loaded
    assert list(stage.encoded_empty) == [(8, 12)]


@pytest.mark.slow
def test_an_inpainting_base_trains_and_generates_by_the_command(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class images included; here its index calls it a plain Stable Diffusion, as some do."""
    base = inpainting(Path(shutil.copytree(tiny_base, tmp_path / "base")))
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    settings = (
        *("training.steps=2", "training.checkpoint_every=2", "training.batch_size=1", "dataset.resolution=64"),
        *("knobs.steps=1", "previews.every=0", "prior.count=1", "prior.steps=1", "method.rank=2", "precision=fp32"),
        *("selection.active=false", "diagnosis.active=false", "device=cpu"),
    )
    words = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    command(monkeypatch, "train", home / "photos", "--class-noun", "dog", "--base", base, "--out", run, *words)
    command(monkeypatch, "generate", run, PROMPT, "--count", 1, "--out", tmp_path / "images")
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a command, which must succeed."""
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


@pytest.mark.parametrize(
    ("channels", "what"), [(5, "depth"), (8, "InstructPix2Pix"), (7, "upscaler"), (6, "6 channels")]
)
def test_other_inputs_are_refused_by_what_they_are(channels: int, what: str, tiny_base: Path, tmp_path: Path) -> None:
    """In a folder by its settings, in a single file by its shapes: no weights are read."""
    folder = inpainting(Path(shutil.copytree(tiny_base, tmp_path / "base")), channels=channels)
    file = tiny_single_file("one", tmp_path / "base.safetensors", channels=channels)
    for base in (folder, file):
        with pytest.raises(UserError, match=what) as error:
            describe(str(base))
        assert str(error.value).endswith("or an inpainting base, which reads 9.")


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [
        ("StableDiffusionInstructPix2PixPipeline", "edits an image"),
        ("StableDiffusionDepth2ImgPipeline", "depth map"),
        ("StableDiffusionUpscalePipeline", "enlarges"),
        ("StableDiffusionXLImg2ImgPipeline", "refiner"),
    ],
)
def test_a_pipeline_of_another_purpose_is_refused_by_what_it_does(pipeline: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}), encoding="utf-8")
    with pytest.raises(UserError, match=what) as error:
        describe(str(tmp_path))
    assert "did you mean" not in str(error.value)


def test_a_single_file_with_mask_channels_is_an_inpainting_base(tmp_path: Path) -> None:
    file = tiny_single_file("one", tmp_path / "base.safetensors", channels=9)
    stage: Any = load_family(str(file), device="cpu", precision="fp32").stages[0]
    assert stage.is_inpainting
    assert stage.latent_shape(64, 64) == (4, 8, 8)
    stage.save(tmp_path / "saved")
    assert StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
