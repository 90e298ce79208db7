"""Laws of generation: prompt, seed and knobs decide an image, in any batch, as in diffusers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.peft_layers import lora_layers
from mascot.diffusion.noise import gaussian, seeded
from mascot.diffusion.sampling import guided_prediction
from mascot.diffusion.solvers import SOLVERS
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from mascot.protocols import Family
from mascot.storage.image_files import write_image
from tiny.stable_diffusion import SUBJECT, tiny_stable_diffusion

# diffusers' schedulers turn tensors into arrays in a way that numpy 2 finds old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

KNOBS = Knobs(steps=4, guidance=3.0)
REQUESTS = tuple(
    ImageRequest(prompt, seed)
    for seed, prompt in enumerate(("a dog", "a cat in the snow", "a dog", "a red toy", "a photo of water"))
)


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return load_family(str(tiny_base), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def velocity_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("velocity"), prediction_type="v_prediction")


@pytest.fixture(scope="module")
def zero_snr_base(velocity_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with zero terminal SNR: its last timestep is pure noise (Lin et al. 2023)."""
    folder = tmp_path_factory.mktemp("zero") / "base"
    shutil.copytree(velocity_base, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_base: Path) -> Adapter:
    """An adapter with visible changes of both parts."""
    stage = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    attached = LoraSettings(rank=4).attach(stage, SUBJECT, 0, None)
    for part in stage.parts:
        for name, layer in lora_layers(stage.parts[part]):
            up = layer.lora_B["default"].weight
            up.data.copy_(gaussian(up.shape, [seeded(part, name)])[0] * 0.3)
    tensors, metadata = attached.export()
    return Adapter(tensors=tensors, metadata=metadata, manifest=None)


def images_of(
    generator: Generator, requests: Sequence[ImageRequest] = REQUESTS, knobs: Knobs = KNOBS
) -> list[Image.Image]:
    return list(generator.generate(requests, knobs))


def contents(images: Sequence[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a pixel, of 255."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def knobs_with(**changes: Any) -> Knobs:
    return KNOBS.model_copy(update=changes)


@pytest.mark.parametrize("applied", [False, True])
def test_an_image_is_the_same_in_any_batch(tiny_base: Path, adapter: Adapter, applied: bool) -> None:  # noqa: FBT001
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    generators = [Generator(family, adapter if applied else None, batch_size=1)]
    generators[0].batch_size = 1
    images: dict[int, list[Image.Image]] = {}
    for size in (1, 2, 5):
        generators[0].batch_size = size
        images[size] = images_of(generators[0])
        assert contents(images_of(generators[0])) == contents(images[size])  # the same bytes at an equal batch size
    for size in (2, 5):
        assert max(difference(one, other) for one, other in zip(images[1], images[size], strict=True)) <= 2
    assert len(set(contents(images[1]))) == len(REQUESTS)


def test_images_come_in_the_order_of_the_requests(family: Family) -> None:
    generator = Generator(family, batch_size=1)
    forward, backward = images_of(generator), images_of(generator, REQUESTS[::-1])
    assert contents(forward) == contents(backward[::-1])
    assert images_of(generator, ()) == []


def test_prompt_and_seed_both_matter(family: Family) -> None:
    one, other_prompt, other_seed = images_of(
        Generator(family), [ImageRequest("a dog", 0), ImageRequest("a cat", 0), ImageRequest("a dog", 1)]
    )
    assert difference(one, other_prompt) > 0
    assert difference(one, other_seed) > 10


def test_scale_0_generates_the_bytes_of_the_base(family: Family, tiny_base: Path, adapter: Adapter) -> None:
    plain = contents(images_of(Generator(family)))
    generator = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"), adapter)
    assert contents(images_of(generator)) != plain
    assert contents(images_of(generator, knobs=knobs_with(unet_scale=0.0, text_scale=0.0))) == plain
    for part in ("unet_scale", "text_scale"):
        assert contents(images_of(generator, knobs=knobs_with(**{part: 0.0}))) not in (
            plain,
            contents(images_of(generator)),
        )


def diffusers_image(base: Path, solver: str, knobs: Knobs, request: ImageRequest) -> Image.Image:
    """Generate the image with diffusers' own pipeline, from the same noise."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    kind, options = SOLVERS[solver]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
    height, width = knobs.height or 64, knobs.width or 64
    result: Any = pipeline(
        request.prompt,
        negative_prompt=knobs.negative,
        latents=gaussian((4, height // 8, width // 8), [seeded("picture", request.seed)]),
        num_inference_steps=knobs.steps,
        guidance_scale=knobs.guidance,
        height=height,
        width=width,
    )
    return result.images[0]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_every_solver_generates_the_pixels_of_diffusers(
    tiny_base: Path, velocity_base: Path, kind: str, solver: str
) -> None:
    base = tiny_base if kind == "epsilon" else velocity_base
    knobs = knobs_with(solver=solver, steps=5, negative="a cat", height=48, width=80)
    (ours,) = images_of(Generator(load_family(str(base), device="cpu", precision="fp32")), REQUESTS[1:2], knobs)
    assert ours.size == (80, 48)
    assert difference(ours, diffusers_image(base, solver, knobs, REQUESTS[1])) <= 1


def test_zero_terminal_snr_generates_with_ddim_alone(zero_snr_base: Path) -> None:
    generator = Generator(load_family(str(zero_snr_base), device="cpu", precision="fp32"))
    assert (
        difference(images_of(generator, REQUESTS[:1])[0], diffusers_image(zero_snr_base, "ddim", KNOBS, REQUESTS[0]))
        <= 1
    )
    for solver in SOLVERS:
        if solver != "ddim":
            with pytest.raises(UserError, match="use --solver ddim"):
                images_of(generator, REQUESTS[:1], knobs_with(solver=solver))


def test_guidance_1_is_the_prompt_s_prediction_alone(family: Family) -> None:
    generator = Generator(family)
    x = gaussian((4, 8, 8), [seeded(0)])
    (stage,), known = family.stages, generator.read_prompts(["a dog", ""], KNOBS, 64, 64)[0].conditioning
    both = {
        "encoder_hidden_states": torch.cat(
            [known[""]["encoder_hidden_states"], known["a dog"]["encoder_hidden_states"]]
        )
    }
    with torch.no_grad():
        with_prompt, without = (stage.predict(x, torch.tensor([500]), known[prompt]) for prompt in ("a dog", ""))
        assert torch.equal(guided_prediction(stage, x, torch.tensor(500), known["a dog"], 1.0), with_prompt)
        assert (
            guided_prediction(stage, x, torch.tensor(500), both, 3.0) - (without + 3 * (with_prompt - without))
        ).abs().max() <= 1e-4
        assert (guided_prediction(stage, x, torch.tensor(500), both, 0.0) - without).abs().max() <= 1e-5
    plain = images_of(generator, knobs=knobs_with(guidance=1.0))
    assert contents(images_of(generator, knobs=knobs_with(guidance=1.0, negative="a cat"))) == contents(plain)
    assert (
        max(
            difference(one, two)
            for one, two in zip(plain, images_of(generator, knobs=knobs_with(guidance=1.0001)), strict=True)
        )
        <= 2
    )


def test_a_negative_prompt_changes_every_image(family: Family) -> None:
    generator = Generator(family)
    for one, other in zip(
        images_of(generator), images_of(generator, knobs=knobs_with(negative="a dog on water")), strict=True
    ):
        assert difference(one, other) > 0


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 72), (8, 8)])
def test_sides_that_do_not_divide_are_refused(family: Family, height: int, width: int) -> None:
    with pytest.raises(UserError, match=f"{width}x{height} does not divide by 16") as refused:
        images_of(Generator(family), REQUESTS[:1], knobs_with(height=height, width=width))
    near = re.findall(r"(\d+)x(\d+)[ ,]", str(refused.value))[1:]
    assert 1 <= len(near) <= 2
    for wide, high in near:
        assert max(abs(int(wide) - width), abs(int(high) - height)) < 16
        assert Generator(family).size(knobs_with(height=int(high), width=int(wide))) == (int(high), int(wide))


def test_an_unknown_solver_is_refused_with_those_that_the_base_has(family: Family) -> None:
    with pytest.raises(UserError, match=r"give one of ddim, dpm\+\+, euler, unipc"):
        images_of(Generator(family), REQUESTS[:1], knobs_with(solver="eular"))


def test_the_settings_are_in_the_file(family: Family, tmp_path: Path) -> None:
    knobs = knobs_with(negative="blurry, dark: ü", solver="euler", steps=3, height=48, width=80, guidance=2.5)
    request = ImageRequest("a dog, at night: 5 €", 42)
    (image,) = images_of(Generator(family), [request], knobs)
    write_image(
        image, tmp_path / "new" / "a.png", settings_text(request, knobs, (48, 80), "owner/name", "a.safetensors")
    )
    with Image.open(tmp_path / "new" / "a.png") as read:
        assert read.convert("RGB").tobytes() == image.tobytes()
        prompt, negative, facts = str(read.info["parameters"]).split("\n")
    assert prompt == "a dog, at night: 5 €"
    assert negative == "Negative prompt: blurry, dark: ü"
    assert (
        dict(fact.split(": ") for fact in facts.split(", ")).items()
        >= {
            "Steps": "3",
            "Sampler": "euler",
            "CFG scale": "2.5",
            "Seed": "42",
            "Size": "80x48",
            "Model": "owner/name",
            "Adapter": "a.safetensors",
            "UNet scale": "1.0",
            "Text encoder scale": "1.0",
        }.items()
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_the_settings_are_enough_to_generate_the_image_again(family: Family) -> None:
    request = ImageRequest("a dog", 5)
    text = settings_text(request, Generator(family).with_defaults(KNOBS), (64, 64), "tiny", None)
    facts = dict(fact.split(": ") for fact in text.split("\n")[-1].split(", "))
    again = Knobs(steps=int(facts["Steps"]), guidance=float(facts["CFG scale"]), solver=facts["Sampler"])
    read = ImageRequest(text.split("\n")[0], int(facts["Seed"]))
    assert contents(images_of(Generator(family), [read], again)) == contents(images_of(Generator(family), [request]))


def short_of_memory(generator: Generator, fits: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make batches above a size run out of memory; returns the list of sizes that are tried."""
    tried, generate_batch = list[int](), generator.generate_batch

    def limited(requests: Sequence[ImageRequest], *rest: Any) -> list[Image.Image]:
        tried.append(len(requests))
        if len(requests) > fits:
            raise torch.OutOfMemoryError
        return generate_batch(requests, *rest)

    monkeypatch.setattr(generator, "generate_batch", limited)
    return tried


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(family, batch_size=4)
    tried = short_of_memory(generator, 2, monkeypatch)
    assert contents(images_of(generator)) == contents(images_of(Generator(family, batch_size=2)))
    assert tried == [4, 2, 2, 1]


def test_one_image_that_does_not_fit_is_refused_with_a_remedy(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(family, batch_size=5)
    tried = short_of_memory(generator, 0, monkeypatch)
    with pytest.raises(UserError, match="generate smaller images"):
        images_of(generator)
    assert tried == [5, 2, 1]


def test_images_come_as_soon_as_their_batch_is_done(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(family, batch_size=2)
    tried = short_of_memory(generator, 2, monkeypatch)
    images = generator.generate(REQUESTS, KNOBS)
    next(images)
    assert tried == [2]
