"""Laws of every family: it generates what diffusers' pipeline generates, and LoRA trains on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from mascot.adapters.adapter_file import Adapter
from mascot.api.train import train
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings, restore
from mascot.models.families.registry import describe, family_name, load_family
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe, preset_values
from mascot.storage.run_folder import Run
from tiny.families import MAKERS, pipeline_options, tiny_base
from tiny.stable_diffusion import SUBJECT, Idle, tiny_stable_diffusion

PROMPT = "a photo of a sks dog in the snow"
STEPS = 3
GUIDANCE = 3.0
NAMES = ["sd", *MAKERS]


@pytest.fixture(scope="module", params=NAMES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and a base of it."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return request.param, tiny_stable_diffusion(folder) if request.param == "sd" else tiny_base(request.param, folder)


@pytest.fixture
def family(base: tuple[str, Path]) -> Family:
    """The base, loaded anew."""
    return load_family(str(base[1]), device="cpu", precision="fp32")


def text_learning_rate(name: str) -> float:
    """The text encoders' learning rate, 0 where a family has none that can be trained."""
    return 0 if name == "deepfloyd_if" else 1e-2


def pixels(image: Image.Image) -> np.ndarray:
    """H x W x 3."""
    return np.asarray(image, np.float64)


def generated(family: Family) -> np.ndarray:
    """One image by our generator."""
    knobs = Knobs(steps=STEPS, guidance=GUIDANCE, height=64, width=64)
    return pixels(next(iter(Generator(family).generate([ImageRequest(PROMPT, 5)], knobs))))


def theirs(name: str, folder: Path, family: Family, adapter: Path | None = None) -> np.ndarray:
    """The same image by diffusers' own pipeline, which also loads the adapter."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    if name in {"sd", "sdxl", "deepfloyd_if"}:
        # IF's learned variance is for solvers with noise between steps; it is dropped here too.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.scheduler.register_to_config(variance_type="fixed_small")
    if adapter is not None:
        pipeline.load_lora_weights(adapter)
    noise = gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)])
    options = pipeline_options(name, noise, steps=STEPS, guidance=GUIDANCE)
    if name == "deepfloyd_if":
        # This pipeline accepts no noise; it draws its own from the generator before anything else.
        del options["latents"]
        options |= {"generator": seeded("picture", 5), "clean_caption": False}
    return np.asarray(pipeline(PROMPT, **options).images[0], np.float64) * 255


def test_the_family_is_detected_from_the_base(base: tuple[str, Path]) -> None:
    """Nobody has to name the family."""
    assert family_name(str(base[1])) == base[0]


def test_our_generator_generates_what_diffusers_generates(base: tuple[str, Path], family: Family) -> None:
    """To one of 255 levels: conditioning, guidance, schedule and autoencoder are the field's."""
    assert np.abs(generated(family) - theirs(*base, family)).max() <= 1.01


def test_lora_trains_and_its_file_restores_to_the_same_pixels(base: tuple[str, Path], family: Family) -> None:
    """The export generates the same on a fresh base; removing it restores the base's bits."""
    stage = family.stages[0]
    before = generated(family)
    attached = LoraSettings(
        rank=2, alpha=3, layers="all", learning_rate=1e-2, text_learning_rate=text_learning_rate(base[0])
    ).attach(stage, SUBJECT, 0, None)
    assert np.array_equal(generated(family), before), "a fresh LoRA changes nothing"
    with torch.no_grad():
        for group in attached.groups:
            for number, parameter in enumerate(group.parameters):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded("push", group.part, number)))
    trained = generated(family)
    assert np.abs(trained - before).max() > 1
    tensors, metadata = attached.export()
    restored: list[np.ndarray] = []
    for _ in range(2):
        fresh = load_family(str(base[1]), device="cpu", precision="fp32")
        applied = restore(fresh.stages[0], tensors, metadata)
        restored.append(generated(fresh))
        applied.remove()
        assert np.array_equal(generated(fresh), before)
    assert np.array_equal(*restored)
    # torch uses another kernel for weights that require gradients: a difference of rounding.
    assert np.abs(restored[0] - trained).max() <= 1


def test_gradients_reach_every_group(family: Family) -> None:
    """The real loss gives every trained part a gradient."""
    from mascot.diffusion.loss import training_loss
    from mascot.protocols import Batch, Framing, Latents

    stage = family.stages[0]
    attached = LoraSettings(rank=2, layers="attention", text_learning_rate=text_learning_rate(family.name)).attach(
        stage, SUBJECT, 0, None
    )
    mean = gaussian(stage.latent_shape(64, 64), [seeded("x", i) for i in range(2)])
    batch = Batch(
        latents=Latents(mean_BCHW=mean, deviation_BCHW=torch.zeros_like(mean)),
        prompts=(PROMPT, "a dog"),
        framings=(Framing(original=(64, 64), target=(64, 64)),) * 2,
        weight_B=torch.ones(2) / 2,
        subject_count=2,
        generators=(seeded(1), seeded(2)),
    )
    loss, error_B = training_loss(stage, batch, stage.condition, Idle().base_only)
    loss.backward()
    assert torch.isfinite(error_B).all()
    for group in attached.groups:
        grads = [p.grad for p in group.parameters if p.grad is not None]
        assert grads, group.part
        assert sum(float(g.abs().sum()) for g in grads) > 0, group.part


def test_a_prompt_is_the_same_in_any_batch(family: Family) -> None:
    """Conditioning is computed by row: joined or alone, the same numbers to rounding."""
    from mascot.protocols import Framing

    stage, framing = family.stages[0], Framing(original=(64, 64), target=(64, 64))
    with torch.no_grad():
        both, alone = stage.condition([PROMPT, "a cat"], [framing] * 2), stage.condition([PROMPT], [framing])
    assert both.keys() == alone.keys()
    for name, rows in alone.items():
        torch.testing.assert_close(both[name][:1], rows, atol=1e-5, rtol=1e-5)


OVERRIDES = (
    *("training.steps=4", "training.checkpoint_every=2", "training.batch_size=2", "dataset.resolution=64"),
    *("knobs.steps=2", "knobs.guidance=3", "knobs.height=64", "knobs.width=64", "previews.every=4"),
    *("prior.count=2", "prior.steps=2", "method.learning_rate=1e-2", "method.rank=4", "method.alpha=8"),
    *("precision=fp32", "device=cpu"),
)


@pytest.fixture(scope="module")
def trained(base: tuple[str, Path], home: Path) -> Run:
    """A whole run on a family: class images, training, previews, report."""
    overrides = (*OVERRIDES, f"method.text_learning_rate={text_learning_rate(base[0])}")
    recipe = Recipe.preset(base=str(base[1]), overrides=overrides, photos=(str(home / "photos"),), class_noun="dog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(home / "cache"))
        return train(recipe, out=home / base[0])


def test_a_whole_run_works(base: tuple[str, Path], trained: Run) -> None:
    """Training on any family by its own preset leaves an adapter, previews and a report."""
    assert trained.adapter.exists()
    assert trained.report.exists()
    assert trained.preview(4, 0).exists()
    assert len(trained.read_steps()) == 4
    assert preset_values(str(base[1]), "lora"), "the family has a preset"


def test_stopped_and_resumed_is_never_stopped(base: tuple[str, Path], home: Path, trained: Run, tmp_path: Path) -> None:
    """Resuming from the checkpoint at half of the steps ends with the same bytes."""
    run = Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))
    shutil.rmtree(run.checkpoint(4))
    run.adapter.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(home / "cache"))
        train(Recipe.read(run.recipe), out=run.folder, resume=True)
    assert run.adapter.read_bytes() == trained.adapter.read_bytes(), base[0]
    assert run.steps.read_bytes() == trained.steps.read_bytes()


def test_diffusers_reads_the_adapter(base: tuple[str, Path], trained: Run, family: Family) -> None:
    """`load_lora_weights` gives our generator's image, alpha and all."""
    adapter = Adapter.read(trained.adapter)
    applied = restore(family.stages[0], adapter.tensors, adapter.metadata)
    ours = generated(family)
    applied.remove()
    assert np.abs(ours - generated(family)).max() > 0, "something was trained"
    assert np.abs(ours - theirs(*base, family, trained.adapter)).max() <= 1.01


def test_a_t5_is_never_trained(base: tuple[str, Path], family: Family) -> None:
    """A base with only a T5 refuses to train its text encoder; others offer their CLIPs alone."""
    stage = family.stages[0]
    if base[0] == "deepfloyd_if":
        with pytest.raises(UserError, match=r"method\.text_learning_rate=0"):
            LoraSettings(text_learning_rate=1e-3).attach(stage, SUBJECT, 0, None)
    trainable = [type(module).__name__ for part, module in stage.parts.items() if part != stage.denoiser]
    assert all(name.startswith("CLIP") for name in trainable)


AUTOENCODER_KEY = "first_stage_model.encoder.conv_in.weight"
CHECKPOINT_KEYS = {
    "StableDiffusionPipeline": (
        "model.diffusion_model.input_blocks.0.0.bias",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
    ),
    "StableDiffusionXLPipeline": (
        "model.diffusion_model.input_blocks.0.0.bias",
        "conditioner.embedders.1.model.ln_final.bias",
    ),
    "StableDiffusion3Pipeline": (
        "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",
        "text_encoders.clip_l.logit_scale",
    ),
    "FluxPipeline": (
        "model.diffusion_model.double_blocks.0.img_attn.proj.weight",
        "text_encoders.clip_l.logit_scale",
    ),
}


@pytest.mark.parametrize("pipeline", CHECKPOINT_KEYS)
def test_a_checkpoint_names_its_family(pipeline: str, tmp_path: Path) -> None:
    """The names of a single file's tensors name its family; no weight is read."""
    keys = (*CHECKPOINT_KEYS[pipeline], AUTOENCODER_KEY)
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "base.safetensors")
    assert describe(str(tmp_path / "base.safetensors"))["_class_name"] == pipeline


def test_another_file_is_no_base(tmp_path: Path) -> None:
    """A LoRA given as a base is refused with what to give instead."""
    save_file({"unet.to_q.lora_A.weight": torch.zeros(1)}, tmp_path / "base.safetensors")
    with pytest.raises(UserError, match="give a whole checkpoint"):
        describe(str(tmp_path / "base.safetensors"))


def test_min_snr_on_a_flow_is_refused_before_anything_is_generated(
    base: tuple[str, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is defined for diffusion alone; no class image is generated first."""
    if base[0] not in {"sd3", "flux"}:
        pytest.skip("a diffusion base takes it")
    recipe = Recipe.preset(
        base=str(base[1]),
        overrides=(*OVERRIDES, "training.min_snr=5"),
        photos=(str(home / "photos"),),
        class_noun="dog",
    )
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"training\.min_snr=none"):
        train(recipe, out=tmp_path / "run")
    assert not (tmp_path / "cache").exists()
