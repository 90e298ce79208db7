"""Laws of images to start from: diffusers' pixels, exact seeds, the same bits outside a mask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    IFImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageFilter

from mascot.diffusion.image_start import first_step
from mascot.diffusion.noise import seeded
from mascot.diffusion.solvers import SOLVERS
from mascot.errors import UserError
from mascot.generation.generator import Generator, fit_start
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.start_image import StartImage, read_source_image
from mascot.models.families.registry import load_family
from mascot.protocols import Family, Framing
from models.test_inpainting_bases import inpainting
from tiny.families import make_flux, make_sd3, tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion

# diffusers' schedulers turn tensors into arrays in a way that numpy 2 finds old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

PROMPT = "a photo of a sks dog in the snow"
SEED = 5
KNOBS = Knobs(steps=5, guidance=3.0, solver="ddim", height=64, width=64)
PIPELINES: dict[str, tuple[Any, Any]] = {
    "sd": (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline),
    "sdxl": (StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline),
    "sd3": (StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline),
    "flux": (FluxImg2ImgPipeline, FluxInpaintPipeline),
}
"""Family -> diffusers' pipelines that start from an image, without and with a mask."""
BASES = ("sd", "velocity", "sdxl", "sd3", "flux", "schnell")


def _mean_of(distribution: DiagonalGaussianDistribution, generator: object = None) -> torch.Tensor:
    """Replace a sample."""
    del generator
    return distribution.mean


@pytest.fixture(autouse=True)
def _mean_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers take the mean of the autoencoder's distribution, as mascot does."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", _mean_of)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny base of each family, and FLUX schnell and SD with velocity."""
    folder = tmp_path_factory.mktemp("bases")
    bases = {name: tiny_base(name, folder / name) for name in ("sdxl", "flux")}
    bases["sd"] = tiny_stable_diffusion(folder / "sd")
    bases["velocity"] = tiny_stable_diffusion(folder / "velocity", prediction_type="v_prediction")
    torch.manual_seed(0)
    for name, pipeline in (("schnell", make_flux(guidance_embeds=False)), ("sd3", with_sixteen_channels(make_sd3()))):
        pipeline.save_pretrained(folder / name)
        bases[name] = folder / name
    return bases


def with_sixteen_channels(pipeline: Any) -> Any:
    """Give a base latents of 16 channels, as diffusers' inpainting of SD3 demands."""
    changes = {"transformer": {"in_channels": 16, "out_channels": 16}, "vae": {"latent_channels": 16}}
    for name, change in changes.items():
        part = getattr(pipeline, name)
        pipeline.register_modules(**{name: type(part).from_config({**part.config, **change})})
    return pipeline


@pytest.fixture(scope="module")
def families(bases: dict[str, Path]) -> dict[str, Family]:
    return {name: load_family(str(folder), device="cpu", precision="fp32") for name, folder in bases.items()}


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth image in color."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def square_mask(width: int = 64, height: int = 64) -> Image.Image:
    """A mask whose edges lie on the edges of latent cells, with values 0 and 255 alone."""
    values = np.zeros((height, width), np.uint8)
    values[height // 4 : height // 2, width // 4 : 3 * width // 4] = 255
    return Image.fromarray(values)


def drawn(
    family: Family,
    knobs: Knobs = KNOBS,
    *,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    strength: float | None = None,
    seeds: Sequence[int] = (SEED,),
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Images by our generator, H x W x 3."""
    generator = Generator(family, batch_size=batch_size)
    source = read_source_image(image or picture(), mask=mask, strength=strength)
    assert source is not None
    start, knobs = fit_start(source, generator, knobs, sized=knobs.height is not None)
    requests = [ImageRequest(PROMPT, seed) for seed in seeds]
    return [np.asarray(one, np.int32) for one in generator.generate(requests, knobs, start)]


def theirs(
    name: str, folder: Path, family: Family, strength: float, *, solver: str = "ddim", mask: Image.Image | None = None
) -> np.ndarray:
    """The same image by diffusers' own pipeline."""
    pipeline: Any = PIPELINES[name][mask is not None].from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if name in {"sd", "sdxl"}:
        kind, options = SOLVERS[solver]
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
    options = {
        "image": picture(),
        "strength": strength,
        "num_inference_steps": KNOBS.steps,
        "guidance_scale": guidance_of(family),
        "generator": [seeded("picture", SEED)],
        "output_type": "np",
    }
    if name in {"sd3", "flux"}:
        options |= {"height": 64, "width": 64}
    if name == "flux":
        options["max_sequence_length"] = 32
    else:
        options["negative_prompt"] = ""
    if mask is not None:
        options |= {"mask_image": mask, "height": 64, "width": 64}
    if name == "sd3" and mask is not None:
        # diffusers 0.42 decodes without the autoencoder's shift in this pipeline alone (#13611).
        latents = pipeline(PROMPT, **options | {"output_type": "latent"}).images
        return family.stages[0].decode(latents)[0].permute(1, 2, 0).double().numpy() * 255
    return np.asarray(pipeline(PROMPT, **options).images[0], np.float64) * 255


def guidance_of(family: Family) -> float:
    """The guidance scale of a test: schnell has none in diffusers."""
    return 1.0 if family.name == "flux" and not family.stages[0].embeds_guidance else 3.0


def cases() -> list[Any]:
    """Base, solver and strength; the default run takes one strength of each base and solver."""
    solvers = {name: ("euler",) if name in {"sd3", "flux", "schnell"} else tuple(SOLVERS) for name in BASES}
    chosen = [(name, solver, strength) for name in BASES for solver in solvers[name] for strength in (0.5, 0.3, 0.9)]
    usual = {(name, solvers[name][-1], 0.5) for name in ("sdxl", "sd3", "flux")}
    usual |= {("sd", solver, 0.5) for solver in SOLVERS}
    return [case if case in usual else slow(*case) for case in chosen]


def slow(*case: object) -> Any:
    """A case of the slow run."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "solver", "strength"), cases())
def test_an_image_is_that_of_diffusers(
    name: str, solver: str, strength: float, bases: dict[str, Path], families: dict[str, Family]
) -> None:
    kind = {"velocity": "sd", "schnell": "flux"}.get(name, name)
    knobs = KNOBS.model_copy(update={"solver": solver, "guidance": guidance_of(families[name])})
    (ours,) = drawn(families[name], knobs, strength=strength)
    other = theirs(kind, bases[name], families[name], strength, solver=solver)
    assert np.abs(ours - other).max() <= 1.01


@pytest.mark.parametrize(("name", "solver", "strength"), cases())
def test_a_hard_mask_is_that_of_diffusers_inside_and_the_image_outside(
    name: str, solver: str, strength: float, bases: dict[str, Path], families: dict[str, Family]
) -> None:
    kind = {"velocity": "sd", "schnell": "flux"}.get(name, name)
    knobs = KNOBS.model_copy(update={"solver": solver, "guidance": guidance_of(families[name])})
    (ours,) = drawn(families[name], knobs, strength=strength, mask=square_mask())
    other = theirs(kind, bases[name], families[name], strength, solver=solver, mask=square_mask())
    inside = np.asarray(square_mask()) == 255
    assert np.abs(ours - other)[inside].max() <= 1.01
    assert np.array_equal(ours[~inside], np.asarray(picture())[~inside])


def plain(family: Family, knobs: Knobs, seeds: Sequence[int] = (SEED,), batch_size: int = 8) -> list[np.ndarray]:
    """Images without a start, H x W x 3."""
    requests = [ImageRequest(PROMPT, seed) for seed in seeds]
    return [np.asarray(one, np.int32) for one in Generator(family, batch_size=batch_size).generate(requests, knobs)]


@pytest.mark.parametrize(
    ("name", "solver"),
    [*(("sd", solver) for solver in SOLVERS), ("sdxl", "euler"), ("sd3", "euler"), ("flux", "euler")],
)
def test_a_strength_of_1_is_text_to_image_to_the_bit(name: str, solver: str, families: dict[str, Family]) -> None:
    knobs = KNOBS.model_copy(update={"solver": solver, "steps": 3})
    assert np.array_equal(drawn(families[name], knobs, strength=1.0)[0], plain(families[name], knobs)[0])


def test_without_an_image_the_bytes_are_those_of_a_loop_of_its_own(families: dict[str, Family]) -> None:
    """Noise, solver and guidance, written out: the new argument changed nothing."""
    (stage,) = families["sd"].stages
    solver = stage.solver("dpm++", KNOBS.steps, 64, 64)
    framing = Framing(original=(64, 64), target=(64, 64))
    with torch.no_grad():
        states = stage.condition(["", PROMPT], [framing] * 2)
        # The generator conditions one prompt at a time.
        states = {
            name: torch.cat([stage.condition([text], [framing])[name] for text in ("", PROMPT)]) for name in states
        }
        x = torch.randn(1, 4, 8, 8, generator=seeded("picture", SEED)) * float(solver.init_noise_sigma)
        for timestep in solver.timesteps:
            negative, positive = stage.predict(torch.cat([x, x]), timestep.expand(2), states).chunk(2)
            x = solver.step(negative + KNOBS.guidance * (positive - negative), timestep, x, return_dict=False)[0]
        pixels = stage.decode(x)[0].permute(1, 2, 0)
    expected = (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    assert np.array_equal(plain(families["sd"], KNOBS.model_copy(update={"solver": "dpm++"}))[0], expected)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_an_image_from_an_image_is_the_same_in_any_batch(name: str, families: dict[str, Family]) -> None:
    knobs = KNOBS.model_copy(update={"solver": "euler"})
    options: dict[str, Any] = {"strength": 0.6, "mask": square_mask().filter(ImageFilter.GaussianBlur(4))}
    alone = drawn(families[name], knobs, seeds=(3, 4, 5), batch_size=1, **options)
    together = drawn(families[name], knobs, seeds=(3, 4, 5), batch_size=3, **options)
    assert max(np.abs(one - other).max() for one, other in zip(alone, together, strict=True)) <= 2
    assert np.array_equal(alone[2], drawn(families[name], knobs, seeds=(5,), batch_size=1, **options)[0])
    assert np.abs(alone[0] - alone[1]).max() > 5


def test_a_soft_mask_is_a_weight_at_every_step_and_in_the_pixels(families: dict[str, Family]) -> None:
    """Against a computation of its own: DDIM, blending of cells, and the paste."""
    (stage,), mask = families["sd"].stages, square_mask().filter(ImageFilter.GaussianBlur(6))
    weights = np.asarray(mask).astype(np.float64) / 255
    cells = torch.from_numpy(weights.reshape(8, 8, 8, 8).max(axis=(1, 3))).float()
    alphas = stage.objective.alphas_cumprod_T.double()  # pyright: ignore[reportAttributeAccessIssue]
    timesteps = [601, 401, 201, 1]
    framing = Framing(original=(64, 64), target=(64, 64))
    pixels = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    eps = torch.randn(1, 4, 8, 8, generator=seeded("picture", SEED))
    with torch.no_grad():
        states = stage.condition([PROMPT], [framing])
        x0 = stage.encode(pixels).mean_BCHW
        x = alphas[601].sqrt() * x0 + (1 - alphas[601]).sqrt() * eps
        for now, then in zip(timesteps, [*timesteps[1:], None], strict=True):
            noise = stage.predict(x.float(), torch.tensor([now]), states).double()
            clean = (x - (1 - alphas[now]).sqrt() * noise) / alphas[now].sqrt()
            after = alphas[0] if then is None else alphas[then]  # set_alpha_to_one is false
            x = after.sqrt() * clean + (1 - after).sqrt() * noise
            image = x0 if then is None else after.sqrt() * x0 + (1 - after).sqrt() * eps
            x = cells * x + (1 - cells) * image
        new = (stage.decode(x.float())[0].permute(1, 2, 0).numpy() * 255).round()
    expected = weights[..., None] * new + (1 - weights[..., None]) * np.asarray(picture())
    knobs = KNOBS.model_copy(update={"guidance": 1.0})
    (ours,) = drawn(families["sd"], knobs, strength=0.8, mask=mask)
    assert np.abs(ours - expected).max() <= 1.01
    assert np.array_equal(ours[weights == 0], np.asarray(picture())[weights == 0])
    assert 0 < (weights == 0).mean() < 0.9


@pytest.mark.parametrize("weight", [0, 1, 100, 127, 128, 254, 255])
def test_the_paste_is_exact(weight: int) -> None:
    """Every pair of values, rounded as fractions are."""
    new, old = np.meshgrid(np.arange(256), np.arange(256))
    one, other = (Image.fromarray(np.repeat(values[..., None], 3, 2).astype(np.uint8)) for values in (new, old))
    start = StartImage(image=other, mask=Image.new("L", (256, 256), weight), strength=1.0, source_size=(256, 256))
    mixed = np.asarray(start.restore_outside(one))[..., 0]
    assert np.array_equal(mixed, (2 * (weight * new + (255 - weight) * old) + 255) // 510)
    if weight in {0, 255}:
        assert np.array_equal(mixed, new if weight else old)


def test_a_strength_that_leaves_no_step_is_refused_with_one_that_does(families: dict[str, Family]) -> None:
    with pytest.raises(UserError, match=r"takes none of 5 steps.*at least 0\.2") as error:
        drawn(families["sd"], strength=0.19)
    assert str(error.value).count(".") == 3
    drawn(families["sd"], strength=0.2)
    for steps in (7, 30, 90):
        knobs = KNOBS.model_copy(update={"steps": steps})
        with pytest.raises(UserError, match="at least") as error:
            drawn(families["sd"], knobs, strength=0.001)
        least = float(str(error.value).split("at least ")[1].split(",")[0])
        assert first_step(families["sd"].stages[0].solver("ddim", steps, 64, 64), least) == steps - 1
    drawn(families["flux"], KNOBS.model_copy(update={"solver": "euler"}), strength=0.001)  # a step in part is taken


@pytest.mark.parametrize(("name", "strength"), [("sd", 1.0), ("sd", 0.6), slow("sdxl", 0.6)])
def test_an_inpainting_base_reads_the_mask_as_in_diffusers(
    name: str, strength: float, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = inpainting(Path(shutil.copytree(bases[name], tmp_path / "base")), index=PIPELINES[name][1].__name__)
    family = load_family(str(base), device="cpu", precision="fp32")
    (ours,) = drawn(family, strength=strength, mask=square_mask())
    inside = np.asarray(square_mask()) == 255
    assert np.abs(ours - theirs(name, base, family, strength, mask=square_mask()))[inside].max() <= 1.01
    assert np.array_equal(ours[~inside], np.asarray(picture())[~inside])
    if (name, strength) == ("sd", 0.6):
        assert np.array_equal(drawn(family, mask=square_mask())[0], drawn(family, strength=1, mask=square_mask())[0])
        assert np.array_equal(drawn(family)[0], drawn(family, strength=0.6)[0])
        other = square_mask().point(lambda value: 255 if value else 100)
        assert np.abs(drawn(family, strength=strength, mask=other)[0] - ours)[inside].max() <= 1, (
            "100 of 255 is not hidden"
        )


@pytest.mark.slow
def test_zero_terminal_snr_starts_from_an_image(bases: dict[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(bases["velocity"], tmp_path / "base"))
    file = base / "scheduler" / "scheduler_config.json"
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    family = load_family(str(base), device="cpu", precision="fp32")
    (ours,) = drawn(family, strength=0.6)
    assert np.abs(ours - theirs("sd", base, family, 0.6)).max() <= 1.01
    assert np.isfinite(drawn(family, strength=1.0, mask=square_mask())[0]).all()


def test_a_pixel_base_starts_from_an_image_as_in_diffusers(tmp_path: Path) -> None:
    base = tiny_base("deepfloyd_if", tmp_path / "base")
    family = load_family(str(base), device="cpu", precision="fp32")
    (ours,) = drawn(family, strength=0.6)
    pipeline: Any = IFImg2ImgPipeline.from_pretrained(base, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler.register_to_config(variance_type="fixed_small")
    options = {"num_inference_steps": KNOBS.steps, "guidance_scale": KNOBS.guidance, "negative_prompt": ""}
    generator = [seeded("picture", SEED)]
    images = pipeline(
        PROMPT, image=picture(), strength=0.6, generator=generator, clean_caption=False, output_type="np", **options
    ).images
    assert np.abs(ours - images[0] * 255).max() <= 1.01


@pytest.mark.slow
def test_every_stage_of_a_cascade_starts_from_the_image(tmp_path: Path) -> None:
    family = load_family(str(tiny_base("deepfloyd_if_cascade", tmp_path)), device="cpu", precision="fp32")
    knobs = KNOBS.model_copy(update={"height": None, "width": None, "steps": 3})
    image, mask = picture(128, 128), square_mask(128, 128).filter(ImageFilter.GaussianBlur(3))
    (ours,) = drawn(family, knobs, image=image, mask=mask, strength=0.7)
    outside = np.asarray(mask) == 0
    assert np.array_equal(ours[outside], np.asarray(image)[outside])
    assert np.abs(ours - np.asarray(image))[~outside].max() > 5
    (near,), (far,) = (drawn(family, knobs, image=image, strength=strength) for strength in (0.34, 1.0))
    distances = [np.abs(one - np.asarray(image, np.int32)).mean() for one in (near, far)]
    assert distances[0] < distances[1]
    assert np.array_equal(far, plain(family, knobs)[0])


def test_strength_is_no_knob_so_that_keys_of_caches_stay() -> None:
    assert not {"strength", "image", "mask"} & set(Knobs.model_fields)
