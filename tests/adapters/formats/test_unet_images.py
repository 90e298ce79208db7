"""A converted adapter draws what it drew: with us always, and with diffusers where it reads it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.lora_keys import METADATA_KEY, name_in_file
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation import loading
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from mascot.protocols import Family
from tiny.commands import Command
from tiny.families import tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion

PROMPT = "a photo of a sks dog in the snow"
KNOBS = Knobs(steps=3, guidance=3.0, height=64, width=64, solver="ddim")
RANKS = (2, 3, 4)
Image = NDArray[np.float64]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Tiny bases of Stable Diffusion 1 and XL."""
    folder = tmp_path_factory.mktemp("bases")
    return {"sd": tiny_stable_diffusion(folder / "sd"), "sdxl": tiny_base("sdxl", folder / "sdxl")}


def family_of(base: Path) -> Family:
    """Load a base to draw with."""
    return load_family(str(base), device="cpu", precision="fp32")


def layers_of(family: Family, *, text: bool) -> dict[tuple[str, str], tuple[int, ...]]:
    """Map linear layers and convolutions of a base, by part and name in files, to their shapes."""
    return {
        (part, name_in_file(part, name)): tuple(layer.weight.shape)
        for part, module in family.stages[0].parts.items()
        if text or part == "unet"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(("text_projection", "add_embedding"))
    }


def make(family: Family, kind: str, *, even: bool = False) -> Adapter:
    """Make an adapter of every layer, with ranks and alphas of their own."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, dict[str, Any]] = {}
    for number, ((part, layer), shape) in enumerate(layers_of(family, text=kind != "dora").items()):
        generator = seeded(part, layer)
        rank = RANKS[number % 3]
        down, up = torch.randn(rank, *shape[1:], generator=generator), torch.randn(shape[0], rank, generator=generator)
        name = f"{part}.{layer}"
        size = 0.15 if part == "unet" else 0.5
        tensors[f"{name}.lora_A.weight"] = down / down[0].numel() ** 0.5
        tensors[f"{name}.lora_B.weight"] = size * up.reshape(*up.shape, *[1] * (len(shape) - 2))
        own = settings.setdefault(part, {"r": 2, "lora_alpha": 2.0, "rank_pattern": {}, "alpha_pattern": {}})
        own["target_modules"] = [*own.get("target_modules", []), layer.removeprefix("text_model.")]
        pattern = layer.removeprefix("text_model.")
        own["rank_pattern"][pattern], own["alpha_pattern"][pattern] = rank, 3.0 if even else 1.5 * rank + number % 2
        if kind == "dora":
            weight: Any = family.stages[0].parts[part].get_submodule(layer).weight
            norms = weight.detach().flatten(1).norm(dim=1) * (1 + 0.1 * torch.randn(shape[0], generator=generator))
            tensors[f"{name}.lora_magnitude_vector"] = norms if len(shape) == 2 else norms.reshape(1, -1, 1, 1)
            own["use_dora"] = True
    flat = {f"{part}.{key}": value for part, own in settings.items() for key, value in own.items()}
    return Adapter(tensors=tensors, metadata={METADATA_KEY: json.dumps(flat)}, manifest=None)


def ours(base: Path, file: Path | None) -> Image:
    """One image by our generator."""
    adapter = None if file is None else Adapter.read(file)
    return np.asarray(next(iter(Generator(family_of(base), adapter).generate([ImageRequest(PROMPT, 5)], KNOBS))), float)


def theirs(base: Path, file: Path) -> Image:
    """The same image by diffusers' pipeline and its own reading of a file."""
    return drawn(base, lambda pipeline: pipeline.load_lora_weights(str(file.parent), weight_name=file.name))


def drawn(base: Path, load: Callable[[Any], object]) -> Image:
    """Draw the image with diffusers' pipeline, once an adapter is loaded into it."""
    family = family_of(base)
    pipeline: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    load(pipeline)
    noise = gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)])
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 64, "width": 64}
    image = pipeline(PROMPT, latents=noise, negative_prompt="", output_type="np", **options).images[0]
    return (image * 255).round().astype(float)


def difference(one: Image, other: Image) -> float:
    """The largest difference of two images, in levels of 255."""
    return float(np.abs(one - other).max())


def by_peft(base: Path, folder: Path) -> Image:
    """The same image after peft itself has loaded the folder into each part."""
    return drawn(base, lambda pipeline: [load_part(pipeline, part) for part in sorted(folder.iterdir())])


def load_part(pipeline: Any, folder: Path) -> None:
    """Load one part's folder with peft; it wraps the layers in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about training with several adapters
        PeftModel.from_pretrained(getattr(pipeline, folder.name), folder)


CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] * ((name, kind) != ("sd", "lora")))
    for name in ("sd", "sdxl")
    for kind in ("lora", "dora")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_format_draws_the_same_image(
    bases: Mapping[str, Path], mascot: Command, tmp_path: Path, name: str, kind: str
) -> None:
    """Alphas differ by layer, but in kohya's form for diffusers, which takes the commonest."""
    base = bases[name]
    source, even = tmp_path / "own.safetensors", tmp_path / "even.safetensors"
    make(family_of(base), kind).write(source)
    make(family_of(base), kind, even=True).write(even)
    expected = ours(base, source)
    assert difference(expected, ours(base, None)) > 10
    for to in ("diffusers", "kohya", "comfyui", "peft"):
        out = tmp_path / (to if to == "peft" else f"{to}.safetensors")
        assert mascot("convert", source, out, "--to", to)[0] == 0
        assert difference(ours(base, out), expected) == 0, to
    assert difference(theirs(base, tmp_path / "diffusers.safetensors"), expected) <= 1
    assert difference(by_peft(base, tmp_path / "peft"), expected) <= 1
    if kind == "lora":
        code, _, errors = mascot("convert", even, tmp_path / "k.safetensors", "--to", "kohya")
        assert (code, errors) == (0, "")
        assert difference(theirs(base, tmp_path / "k.safetensors"), ours(base, even)) <= 1


@pytest.mark.parametrize(("width", "says"), [(2048, "Stable Diffusion XL"), (1024, "Stable Diffusion 2")])
def test_an_adapter_of_another_base_is_refused_before_the_base_is_loaded(
    bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int, says: str
) -> None:
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{name}.lora_A.weight": torch.rand(2, width), f"{name}.lora_B.weight": torch.rand(640, 2)}
    Adapter(tensors=tensors, metadata={}, manifest=None).write(tmp_path / "a.safetensors")
    monkeypatch.setattr(loading, "load_family", lambda *_, **__: pytest.fail("the base is loaded"))
    with pytest.raises(UserError, match=rf"a.safetensors is an adapter of {says}, and the base .*sd is one of Stable"):
        loading.open_generator(tmp_path / "a.safetensors", base=str(bases["sd"]), device="cpu")
