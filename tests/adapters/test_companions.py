"""Laws of companion files: each generates the adapter's images, in the tool that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from mascot.api.train import train
from mascot.diffusion.noise import gaussian, seeded
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator
from mascot.models.families.registry import load_family
from mascot.models.token_embeddings import LearnedTokens
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

PROMPT = "a photo of a sks dog in the snow"
KNOBS = Knobs(steps=3, guidance=3.0, height=64, width=64)
COMMON = (
    "training.steps=4",
    "training.warmup_steps=0",
    "previews.every=0",
    "prior.weight=0",
    "precision=fp32",
    "device=cpu",
    "training.batch_size=1",
    "training.gradient_accumulation_steps=1",
)


@pytest.fixture(scope="module")
def runs(tiny_base: Path, home: Path) -> dict[str, Run]:
    """Train one run by DreamBooth, and one by pivotal tuning: a token and LoRA layers."""
    more = {
        "dreambooth": ("method.learning_rate=1e-3", "method.text_learning_rate=1e-3", "method.extract_rank=64"),
        "pivotal": (
            "method.token.learning_rate=1e-2",
            "method.token.vectors=2",
            "method.layers.learning_rate=1e-2",
            "method.layers.text_learning_rate=1e-2",
        ),
    }
    trained: dict[str, Run] = {}
    for method, overrides in more.items():
        recipe = Recipe.preset(
            base=str(tiny_base),
            overrides=(*COMMON, f'method.name="{method}"', *overrides),
            photos=(str(home / "photos"),),
            class_noun="dog",
        )
        trained[method] = train(recipe, out=home / method, report=False)
    return trained


def generated(generator: Generator) -> np.ndarray:
    return np.asarray(next(iter(generator.generate([ImageRequest(PROMPT, 5)], KNOBS))), np.int16)


def applied(file: Path) -> np.ndarray:
    return generated(open_generator(file, device="cpu")[0])


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


def base_only(tiny_base: Path) -> np.ndarray:
    return generated(Generator(load_family(str(tiny_base), device="cpu", precision="fp32")))


def test_a_trained_base_is_a_base(tiny_base: Path, runs: dict[str, Run]) -> None:
    """Mascot loads the folder and generates the adapter's image; so does diffusers."""
    run = runs["dreambooth"]
    ours = applied(run.adapter)
    assert difference(ours, base_only(tiny_base)) > 3
    folder = run.model()
    assert difference(generated(Generator(load_family(str(folder), device="cpu", precision="fp32"))), ours) <= 1
    assert difference(theirs(folder), ours) <= 1


def test_the_extracted_layers_come_near_the_weights(tiny_base: Path, runs: dict[str, Run]) -> None:
    """At a high rank they give nearly the same image: norms and biases are a small part here."""
    run = runs["dreambooth"]
    base, ours, near = base_only(tiny_base), applied(run.adapter), applied(run.companion("low_rank"))
    assert np.abs(near - ours).mean() < 0.5 * np.abs(base - ours).mean()


def test_what_was_kept_is_reported(runs: dict[str, Run], tiny_base: Path, home: Path, tmp_path: Path) -> None:
    """The energy of each kind of layer is in the report of a run that extracts."""
    recipe = Recipe.read(runs["dreambooth"].recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(home / "cache"))
        run = train(recipe.model_copy(update={"knobs": KNOBS.model_copy(update={"steps": 1})}), out=tmp_path / "run")
    assert str(tiny_base) in run.report.read_text(encoding="utf-8")
    assert "attention" in run.report.read_text(encoding="utf-8")
    assert "%" in run.report.read_text(encoding="utf-8")


def test_diffusers_reads_the_token_and_the_layers(tiny_base: Path, runs: dict[str, Run]) -> None:
    """`load_lora_weights` and `load_textual_inversion` together give the adapter's image."""
    run = runs["pivotal"]
    ours = applied(run.adapter)
    assert difference(ours, base_only(tiny_base)) > 3
    image = theirs(tiny_base, layers=run.companion("layers"), embeddings=run.companion("token"))
    assert difference(image, ours) <= 1


def test_each_half_of_a_pair_generates_alone(tiny_base: Path, runs: dict[str, Run]) -> None:
    """Mascot reads each file too, and neither gives the image of both."""
    run = runs["pivotal"]
    whole, base = applied(run.adapter), base_only(tiny_base)
    for name in ("layers", "token"):
        half = applied(run.companion(name))
        assert difference(half, base) > 0
        assert difference(half, whole) > 0


def theirs(folder: Path, layers: Path | None = None, embeddings: Path | None = None) -> np.ndarray:
    """Generate the image by diffusers' own pipeline, from the same noise."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    if layers is not None:
        pipeline.load_lora_weights(layers)
    prompt = PROMPT
    if embeddings is not None:
        own = LearnedTokens(pipeline.text_encoder, pipeline.tokenizer)
        token = "trained" if "sks" in pipeline.tokenizer.get_vocab() or own.embeddings("sks").shape[0] == 1 else "sks"
        pipeline.load_textual_inversion(embeddings, token=token)
        prompt = PROMPT.replace("sks", token)
    noise = gaussian((4, 8, 8), [seeded("picture", 5)])
    output = pipeline(
        prompt,
        latents=noise,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="np",
        negative_prompt="",
    )
    return (np.asarray(output.images[0]) * 255).round().astype(np.int16)
