"""Laws of the tiny models that other tests use."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from tiny.stable_diffusion import SIDE, WORDS, tiny_clip_tokenizer, tiny_stable_diffusion


def digest(folder: Path) -> str:
    """Hash all files of a folder, names included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


def generate(pipeline: Any, prompt: str) -> torch.Tensor:
    """Generate in two steps from seed 0, as pixels in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        prompt, num_inference_steps=2, height=SIDE, width=SIDE, generator=generator, output_type="pt"
    ).images[0]


def test_the_folder_loads_generates_and_follows_the_prompt(tiny_base: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    dog, cat = (generate(pipeline, f"a photo of a {noun} in the snow") for noun in ("dog", "cat"))
    assert dog.shape == (3, SIDE, SIDE)
    assert dog.isfinite().all()
    assert (dog - cat).abs().max() > 1 / 255
    assert sum(path.stat().st_size for path in tiny_base.rglob("*") if path.is_file()) < 3_000_000


def test_one_seed_is_one_set_of_bytes(tiny_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert digest(tiny_stable_diffusion(tmp_path / "again")) == digest(tiny_base)
    assert digest(tiny_stable_diffusion(tmp_path / "other", seed=1)) != digest(tiny_base)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_known_word_is_one_token() -> None:
    tokenizer = tiny_clip_tokenizer()
    assert [tokenizer.tokenize(word) for word in WORDS] == [[f"{word}</w>"] for word in WORDS]


def test_the_prediction_type_is_written_down(tmp_path: Path) -> None:
    folder = tiny_stable_diffusion(tmp_path, prediction_type="v_prediction")
    assert (
        StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).scheduler.config["prediction_type"]
        == "v_prediction"
    )
