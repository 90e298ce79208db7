"""Draw with an adapter in stable-diffusion.cpp, and in mascot, from the same noise.

    pip wheel --no-deps stable-diffusion-cpp-python   # a quarter of an hour on two cores
    python benchmarks/independent_reader.py --python ENVIRONMENT/bin/python

`--python` is an interpreter that has that package. It needs no other, and mascot does not need it.

The bases have random weights and the smallest sizes that the other program accepts. One has the
layout of Stable Diffusion 1.5 with a UNet of three levels and no middle, the other that of FLUX.1
with two blocks of each kind. For each, `mascot train` trains adapters of a few steps, and `mascot
convert` writes kohya's files. Both programs then generate one image with and without each file.
The table says how far the two images are apart, and how far the adapter moves an image at all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from mascot.adapters.adapter_file import Adapter
from mascot.generation import generator as generation
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.base_files.clip_vocabulary import clip_tokenizer
from mascot.models.families.registry import load_family
from mascot.protocols import Family
from mascot.storage.tensor_files import read_tensors

PHOTOS = Path(__file__).parent.parent / "examples" / "mascot" / "photos"
PROMPT, SEED, SIDE, STEPS, GUIDANCE = "a photo of sks owl", 7, 128, 4, 3.0
"""Both programs begin at timestep 999 and end at 0, in steps of whole timesteps."""
ORIGINAL = "original.safetensors"
"""File of a denoiser in the original layout."""
SETTINGS = (
    "dataset.resolution=64",
    "method.rank=4",
    "method.alpha=8",
    "method.learning_rate=2e-3",
    "training.warmup_steps=0",
    "training.batch_size=1",
    "prior.count=0",
    "previews.every=0",
    "selection.active=false",
    "diagnosis.active=false",
    "report.images=0",
)
"""What every adapter is trained with: enough to move an image, in a few steps."""
TEXT = "method.text_learning_rate=1e-3"
LORA: Mapping[str, tuple[str, ...]] = {
    "LoRA": (TEXT,),
    "LoRA of all layers": ("method.layers=all", TEXT),
    "LoHa": ("method.variant=loha", TEXT),
}
"""Adapters of every base: name -> settings."""
LOKR: Mapping[str, tuple[str, ...]] = {"LoKr": ("method.variant=lokr", TEXT)}
"""Not for a base whose layers kohya's names join: LoKrs that were trained apart have none."""
THEIRS = """
import json, sys
from stable_diffusion_cpp import StableDiffusion
files, jobs, options = map(json.loads, sys.argv[1:4])
for folder, scale, out in jobs:
    program = StableDiffusion(**files, lora_model_dir=folder, n_threads=2, wtype="f32", verbose=True)
    prompt = options["prompt"] + (f" <lora:adapter:{scale}>" if scale else "")
    program.generate_image(**{**options, "prompt": prompt})[0].save(out)
"""
"""The other side as a program; a job is an adapter's folder, its scale, and the image's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestBase:
    """A base that both programs read."""

    name: str
    make: Callable[[Path], DiffusionPipeline]
    """Makes the pipeline, and may write the denoiser in the original layout to a file."""
    files: Mapping[str, str]
    """Argument of the other program -> a file or folder in the base's."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """More arguments of the other program's generation."""
    channels: int = 4
    """Channels of the latents."""
    adapters: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: LORA)
    """Name of an adapter -> the settings it is trained with."""


def autoencoder(channels: int, **options: Any) -> AutoencoderKL:
    """Make an autoencoder of Stable Diffusion's size."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        **options,
    )


def clip() -> CLIPTextModel:
    """Make a text encoder of the size of CLIP ViT-L/14."""
    settings = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return CLIPTextModel(settings)


def small_unet(original: Path) -> DiffusionPipeline:
    """Make a pipeline with the layout of Stable Diffusion 1.5 and a small UNet."""
    del original  # the other program reads this base from its folder
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280),
        layers_per_block=1,
        mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    schedule = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="linspace"
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=autoencoder(4),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        scheduler=schedule,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def transformer_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """List the weights of a transformer of FLUX.1's layout with one block of each kind."""
    linear: dict[str, tuple[int, int]] = {
        "img_in": (width, 64),
        "txt_in": (width, 4096),
        "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "single_blocks.0.linear1": (7 * width, width),
        "single_blocks.0.linear2": (width, 5 * width),
        "single_blocks.0.modulation.lin": (3 * width, width),
    }
    for name, inputs in (("time_in", 256), ("guidance_in", 256), ("vector_in", 768)):
        linear |= {f"{name}.in_layer": (width, inputs), f"{name}.out_layer": (width, width)}
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        linear |= {f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width)}
        linear |= {f"{block}_attn.proj": (width, width), f"{block}_mlp.0": (4 * width, width)}
        linear |= {f"{block}_mlp.2": (width, 4 * width)}
    attentions = ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0")
    norms = [f"{name}.norm.{kind}_norm.scale" for name in attentions for kind in ("query", "key")]
    weights: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in linear.items()} | dict.fromkeys(norms, (128,))


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Draw weights as torch's linear layers do; scales are 1."""
    return {
        name: torch.ones(shape) if name.endswith("scale") else (torch.rand(shape) * 2 - 1) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }


def small_transformer(original: Path) -> DiffusionPipeline:
    """Make a pipeline with the layout of FLUX.1, whose T5 gives zeros as a missing one does.

    diffusers' own function turns the weights, which are also written in the original layout. It
    knows the width of FLUX.1 alone.
    """
    weights = random_weights(transformer_shapes(3072))
    save_file({name: tensor.half() for name, tensor in weights.items()}, original)
    transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    transformer.load_state_dict(convert_flux_transformer_checkpoint_to_diffusers(weights))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    t5 = T5EncoderModel(T5Config(vocab_size=4, d_model=4096, d_ff=8, d_kv=8, num_layers=1, num_heads=1))
    t5.encoder.final_layer_norm.weight.data.zero_()
    return FluxPipeline(
        transformer=transformer,
        vae=autoencoder(
            16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159
        ),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=256),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


BASES = (
    TestBase(
        name="SD 1.5",
        make=small_unet,
        files={"model_path": "."},
        options={"cfg_scale": GUIDANCE, "scheduler": "discrete"},
        adapters={**LORA, **LOKR},
    ),
    TestBase(
        name="FLUX.1",
        make=small_transformer,
        files={
            "diffusion_model_path": ORIGINAL,
            "clip_l_path": "text_encoder/model.safetensors",
            "vae_path": "vae/diffusion_pytorch_model.safetensors",
        },
        options={"cfg_scale": 1.0, "guidance": GUIDANCE, "sigmas": "1.0,0.75,0.5,0.25,0.0"},
        channels=16,
    ),
)


def make_base(base: TestBase, folder: Path) -> None:
    """Write a base with seeded random weights, in half precision and with the usual names."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    base.make(folder / ORIGINAL).to(torch.float16).save_pretrained(folder)
    path = folder / "text_encoder" / "model.safetensors"
    tensors, _ = read_tensors(path)
    prefix = "" if any(name.startswith("text_model.") for name in tensors) else "text_model."
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def philox_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Draw the other program's noise: Philox 4x32-10 and Box-Muller, as torch does on CUDA.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    count = int(np.prod(shape))
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    counter = [np.zeros(count, np.uint64) for _ in range(4)]
    counter[2] = np.arange(count, dtype=np.uint64)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (second >> shift) ^ counter[1] ^ np.uint64(key[0]),
            second & low,
            (first >> shift) ^ counter[3] ^ np.uint64(key[1]),
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    unit = np.float32(2.3283064e-10)
    radius = np.sqrt(-2 * np.log(counter[0].astype(np.float32) * unit + unit / 2))
    turn = unit * np.float32(6.2831855)
    return torch.from_numpy(radius * np.sin(counter[1].astype(np.float32) * turn + turn / 2)).reshape(shape)


def ours(family: Family, adapter: Adapter | None, channels: int) -> Image.Image:
    """Generate with mascot, from the other program's noise."""
    generator = Generator(family, adapter)
    noise = philox_noise(SEED, (1, channels, SIDE // 8, SIDE // 8))
    knobs = Knobs(guidance=GUIDANCE, steps=STEPS, solver="euler", height=SIDE, width=SIDE)
    with mock.patch.object(generation, "gaussian", return_value=noise):
        (image,) = generator.generate([ImageRequest(PROMPT, SEED)], knobs)
    generator.remove_adapter()
    return image


def theirs(python: Path, folder: Path, base: TestBase, jobs: list[tuple[str, float, str]]) -> str:
    """Generate with the other program; returns what it printed."""
    files = {name: str(folder / file) for name, file in base.files.items()}
    fixed = {"rng_type": "cuda", "sampler_rng_type": "cuda"}
    options = {
        "prompt": PROMPT,
        "width": SIDE,
        "height": SIDE,
        "sample_method": "euler",
        "sample_steps": STEPS,
        "seed": SEED,
        **base.options,
    }
    values = [json.dumps(value) for value in (files | fixed, jobs, options)]
    result = subprocess.run([python, "-c", THEIRS, *values], capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        sys.exit(f"stable-diffusion.cpp failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout + result.stderr


def mascot(*arguments: str | Path) -> None:
    """Run a command of mascot in a process of its own."""
    program = "from mascot.cli.app import main; main()"
    subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def train(base: Path, out: Path, steps: int, settings: tuple[str, ...]) -> None:
    """Train an adapter and write it in kohya's format, as `adapter.safetensors` in a folder."""
    changes = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    options = ["--class-noun", "owl", "--token", "sks", "--steps", str(steps)]
    mascot("train", PHOTOS, "--base", base, "--out", out / "run", *options, *changes)
    mascot("convert", out / "run", out / "adapter.safetensors", "--to", "kohya")


def distance(one: Image.Image, other: Image.Image) -> tuple[float, int]:
    """Return the mean and the largest absolute difference of two images, in levels of 255."""
    difference = np.abs(np.asarray(one.convert("RGB"), int) - np.asarray(other.convert("RGB"), int))
    return float(difference.mean()), int(difference.max())


def compare(base: TestBase, folder: Path, python: Path, steps: int) -> list[str]:
    """Train, convert and draw on both sides; returns the rows of the table."""
    make_base(base, folder / "base")
    for name, settings in base.adapters.items():
        train(folder / "base", folder / name, steps, settings)
    jobs = [(str(folder / name), 1.0, str(folder / name / "theirs.png")) for name in base.adapters]
    printed = theirs(python, folder / "base", base, [("", 0.0, str(folder / "theirs.png")), *jobs])
    applied = [line.partition(" - ")[2] for line in printed.splitlines() if "LoRA tensors have been applied" in line]
    family = load_family(str(folder / "base"), device="cpu", precision="fp32")
    before = ours(family, None, base.channels)
    before.save(folder / "ours.png")
    mean, most = distance(before, Image.open(folder / "theirs.png"))
    rows = [f"| {base.name} | none | {mean:.2f} ({most}) | | |"]
    for name, told in zip(base.adapters, applied, strict=True):
        image = ours(family, Adapter.read(folder / name / "run" / "adapter.safetensors"), base.channels)
        image.save(folder / name / "ours.png")
        mean, most = distance(image, Image.open(folder / name / "theirs.png"))
        moved, _ = distance(image, before)
        count = told.partition(" LoRA")[0].strip("() ")
        rows.append(f"| {base.name} | {name} | {mean:.2f} ({most}) | {moved:.2f} | {count} |")
    return rows


def main() -> None:
    """Print a table of all bases and adapters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="an interpreter with stable-diffusion-cpp-python")
    parser.add_argument("--steps", type=int, default=6, help="training steps of each adapter")
    parser.add_argument("--keep", type=Path, help="a folder for bases, adapters and images; a temporary one otherwise")
    parser.add_argument("--base", choices=[base.name for base in BASES], help="only this base")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        print("| base | adapter | ours beside theirs, mean (most) of 255 | moved by | tensors applied there |")
        print("|---|---|---|---|---|")
        for base in (base for base in BASES if options.base in {None, base.name}):
            folder = (options.keep or Path(temporary)) / base.name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            print("\n".join(compare(base, folder, options.python, options.steps)), flush=True)


if __name__ == "__main__":
    main()
