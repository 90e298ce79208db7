"""Other tools' files on tiny bases of SD3 and FLUX.1: what diffusers draws, or the change by hand.

Where diffusers cannot read a format, or drops a part of it, the plain change of the weights is the
measure: its names, halves and alphas are written out here, not taken from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.formats.low_rank_layers import applied, layer_of, random_layer
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.api.adapters.convert import convert
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings, restore
from mascot.models.families.flux import pack
from mascot.models.families.registry import load_family
from mascot.protocols import Family
from tiny.commands import Command
from tiny.families import tiny_base
from tiny.stable_diffusion import SUBJECT

Tensors = dict[str, Tensor]
PROMPT = "a photo of a sks dog in the snow"
RANK, ALPHA = 2, 3.0
ONE_LEVEL = 1.01
KNOBS = Knobs(steps=3, guidance=3.0, height=64, width=64)

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
FLUX_LAYERS: Mapping[str, tuple[str, ...]] = {
    "double_blocks.0.img_attn.qkv": tuple(f"transformer_blocks.0.{name}" for name in ATTENTION),
    "double_blocks.0.txt_attn.qkv": tuple(f"transformer_blocks.0.{name}" for name in TEXT_ATTENTION),
    "double_blocks.0.img_attn.proj": ("transformer_blocks.0.attn.to_out.0",),
    "double_blocks.0.txt_attn.proj": ("transformer_blocks.0.attn.to_add_out",),
    "double_blocks.0.img_mlp.0": ("transformer_blocks.0.ff.net.0.proj",),
    "double_blocks.0.txt_mlp.2": ("transformer_blocks.0.ff_context.net.2",),
    "double_blocks.0.img_mod.lin": ("transformer_blocks.0.norm1.linear",),
    "single_blocks.0.linear2": ("single_transformer_blocks.0.proj_out",),
    "single_blocks.0.modulation.lin": ("single_transformer_blocks.0.norm.linear",),
}
"""Original layer -> the layers of diffusers that it holds; diffusers reads all of these."""
FLUX_MORE: Mapping[str, tuple[str, ...]] = {
    "single_blocks.0.linear1": (
        *(f"single_transformer_blocks.0.{name}" for name in ATTENTION),
        "single_transformer_blocks.0.proj_mlp",
    ),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "txt_in": ("context_embedder",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
"""Layers that diffusers 0.42 reads at the sizes of FLUX.1-dev alone, or drops without a word."""
SD3_LAYERS: Mapping[str, tuple[str, ...]] = {
    "joint_blocks.0.x_block.attn.qkv": tuple(f"transformer_blocks.0.{name}" for name in ATTENTION),
    "joint_blocks.1.context_block.attn.qkv": tuple(f"transformer_blocks.1.{name}" for name in TEXT_ATTENTION),
    "joint_blocks.0.context_block.mlp.fc1": ("transformer_blocks.0.ff_context.net.0.proj",),
    "joint_blocks.0.context_block.adaLN_modulation.1": ("transformer_blocks.0.norm1_context.linear",),
    "joint_blocks.1.context_block.adaLN_modulation.1": ("transformer_blocks.1.norm1_context.linear",),
    "x_embedder.proj": ("pos_embed.proj",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
SHIFT_FIRST = ("final_layer.adaLN_modulation.1", "joint_blocks.1.context_block.adaLN_modulation.1")
XLABS: Mapping[str, str] = {
    "double_blocks.0.img_attn.qkv": "double_blocks.0.processor.qkv_lora1",
    "double_blocks.0.txt_attn.qkv": "double_blocks.0.processor.qkv_lora2",
    "double_blocks.0.img_attn.proj": "double_blocks.0.processor.proj_lora1",
    "double_blocks.0.txt_attn.proj": "double_blocks.0.processor.proj_lora2",
    "single_blocks.0.linear2": "single_blocks.0.processor.proj_lora",
}
TEXT_LAYERS = [
    f"encoder.layers.{number}.{name}"
    for number in (0, 1)
    for name in (*(f"self_attn.{letter}_proj" for letter in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")
]

KOHYA_ENDINGS = {
    ".lora_A.weight": ".lora_down.weight",
    ".lora_B.weight": ".lora_up.weight",
    ".lora_magnitude_vector": ".dora_scale",
}

Changes = dict[str, tuple[Tensor, Tensor]]
"""Original layer -> its down and its up projection."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases of both families."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: tiny_base(name, folder / name) for name in ("sd3", "flux")}


def generated(family: Family) -> np.ndarray:
    """One image by our generator."""
    return np.asarray(next(iter(Generator(family).generate([ImageRequest(PROMPT, 5)], KNOBS))), np.float64)


def with_file(base: Path, file: Path) -> np.ndarray:
    """One image by our generator, with another tool's file, all of which must apply."""
    family = load_family(str(base), device="cpu", precision="fp32")
    plain = generated(family)
    adapter = Adapter.read(file)
    restore(family.stages[0], adapter.tensors, adapter.metadata)
    image = generated(family)
    assert np.abs(image - plain).max() > 2 * ONE_LEVEL
    return image


def by_diffusers(base: Path, file: Path) -> np.ndarray:
    """The same image by diffusers' pipeline and its own reading of the file."""
    family = load_family(str(base), device="cpu", precision="fp32")
    pipeline: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.load_lora_weights(file)
    noise = gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)])
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 64, "width": 64}
    given = (
        {"latents": pack(noise), "max_sequence_length": 32}
        if base.name == "flux"
        else {"latents": noise, "negative_prompt": ""}
    )
    return np.asarray(pipeline(PROMPT, **options, **given, output_type="np").images[0], np.float64) * 255


def by_hand(base: Path, layers: Mapping[str, tuple[str, ...]], changes: Changes, scale: float) -> np.ndarray:
    """The same image after the plain changes were added to the base's own weights."""
    family = load_family(str(base), device="cpu", precision="fp32")
    module = family.stages[0].parts["transformer"]
    for name, (down, up) in changes.items():
        change = scale * (up.flatten(1) @ down.flatten(1))
        if name in SHIFT_FIRST:
            change = torch.cat(list(reversed(change.chunk(2))))
        top = 0
        for own in layers[name]:
            weight: Any = module.get_submodule(own).weight
            weight.data += change[top : top + len(weight)].reshape(weight.shape)
            top += len(weight)
        assert top == len(change)
    return generated(family)


def random_changes(base: Path, layers: Mapping[str, tuple[str, ...]]) -> Changes:
    """Draw down and up projections for original layers."""
    module = load_family(str(base), device="cpu", precision="fp32").stages[0].parts["transformer"]
    generator = torch.Generator().manual_seed(0)
    changes: Changes = {}
    for name, owns in layers.items():
        shapes = [tuple(module.get_submodule(own).weight.shape) for own in owns]
        down = torch.randn(RANK, *shapes[0][1:], generator=generator)
        up = 0.2 * torch.randn(sum(shape[0] for shape in shapes), RANK, generator=generator)
        changes[name] = (down, up.reshape(len(up), RANK, *[1] * (down.ndim - 2)))
    return changes


def kohya(changes: Changes) -> Tensors:
    """A file of kohya: underscores, and an alpha for each layer."""
    return {
        f"lora_unet_{name.replace('.', '_')}.{end}": value
        for name, (down, up) in changes.items()
        for end, value in (("lora_down.weight", down), ("lora_up.weight", up), ("alpha", torch.tensor(ALPHA)))
    }


def comfyui(changes: Changes) -> Tensors:
    """A file of ComfyUI: the original names with their dots."""
    return {
        f"diffusion_model.{name}.{end}": value
        for name, (down, up) in changes.items()
        for end, value in (("lora_down.weight", down), ("lora_up.weight", up), ("alpha", torch.tensor(ALPHA)))
    }


def original(changes: Changes) -> Tensors:
    """A file under the names of the original code alone, without alpha."""
    return {
        f"{name}.{end}": value
        for name, (down, up) in changes.items()
        for end, value in (("lora_A.weight", down), ("lora_B.weight", up))
    }


def fal(changes: Changes) -> Tensors:
    """A file of fal's trainer: peft's prefix before the original names."""
    return {f"base_model.model.{name}": value for name, value in original(changes).items()}


def xlabs(changes: Changes) -> Tensors:
    """A file of XLabs' trainer, which knows no alpha, and adapts no feed-forward layer."""
    names = dict(XLABS)
    if "single_blocks.0.linear1" in changes:
        names["single_blocks.0.linear1"] = "single_blocks.0.processor.qkv_lora"
    return {
        f"{names[name]}.{end}.weight": value
        for name, (down, up) in changes.items()
        for end, value in (("down", down), ("up", up))
    }


def save(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """Write a file as other tools do."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


FORMATS: Mapping[str, tuple[Callable[[Changes], Tensors], float]] = {
    "kohya": (kohya, ALPHA / RANK),
    "comfyui": (comfyui, ALPHA / RANK),
    "original": (original, 1.0),
    "fal": (fal, 1.0),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "kohya" else pytest.mark.slow) for n in FORMATS])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_file_with_original_names_is_the_plain_change(
    bases: Mapping[str, Path], family: str, name: str, tmp_path: Path
) -> None:
    layers = SD3_LAYERS if family == "sd3" else {**FLUX_LAYERS, **FLUX_MORE}
    write, scale = FORMATS[name]
    changes = random_changes(bases[family], layers)
    ours = with_file(bases[family], save(write(changes), tmp_path))
    assert np.abs(ours - by_hand(bases[family], layers, changes, scale)).max() <= ONE_LEVEL


@pytest.mark.parametrize("write", [kohya, pytest.param(comfyui, marks=pytest.mark.slow)])
def test_diffusers_draws_the_same_of_a_file_of_kohya(
    bases: Mapping[str, Path], write: Callable[[Changes], Tensors], tmp_path: Path
) -> None:
    changes = random_changes(bases["flux"], FLUX_LAYERS)
    file = save(write(changes) | text_file("lora_te1_text_model_"), tmp_path)
    assert np.abs(with_file(bases["flux"], file) - by_diffusers(bases["flux"], file)).max() <= ONE_LEVEL


def text_file(prefix: str) -> Tensors:
    """Layers of a tiny CLIP text encoder in kohya's form."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"fc1": (32, 64), "fc2": (64, 32)}
    tensors: Tensors = {}
    for layer in TEXT_LAYERS:
        inputs, outputs = sizes.get(layer.rpartition(".")[2], (32, 32))
        name = f"{prefix}{layer.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, inputs, generator=generator)
        tensors[f"{name}.lora_up.weight"] = 0.2 * torch.randn(outputs, RANK, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def test_diffusers_draws_the_same_of_a_file_of_xlabs(bases: Mapping[str, Path], tmp_path: Path) -> None:
    layers = {name: FLUX_LAYERS[name] for name in XLABS} | {
        "single_blocks.0.linear1": FLUX_MORE["single_blocks.0.linear1"][:3]
    }
    changes = random_changes(bases["flux"], layers)
    file = save(xlabs(changes), tmp_path)
    ours = with_file(bases["flux"], file)
    assert np.abs(ours - by_hand(bases["flux"], layers, changes, 1.0)).max() <= ONE_LEVEL
    assert np.abs(ours - by_diffusers(bases["flux"], file)).max() <= ONE_LEVEL


def onetrainer(changes: Changes, layers: Mapping[str, tuple[str, ...]]) -> Tensors:
    """A file of OneTrainer: diffusers' layers with underscores, and alphas."""
    return {
        f"lora_transformer_{own.replace('.', '_')}.{end}": value
        for own, (down, up) in own_changes(changes, layers).items()
        for end, value in (("lora_down.weight", down), ("lora_up.weight", up), ("alpha", torch.tensor(ALPHA)))
    }


@pytest.mark.slow
def test_diffusers_draws_the_same_of_a_file_of_onetrainer(bases: Mapping[str, Path], tmp_path: Path) -> None:
    """Attention and text encoder alone: diffusers gives the rest of such a file to wrong layers."""
    changes = random_changes(bases["flux"], {name: FLUX_LAYERS[name] for name in FLUX_LAYERS if ".proj" in name})
    file = save(onetrainer(changes, FLUX_LAYERS) | text_file("lora_te1_text_model_"), tmp_path)
    assert np.abs(with_file(bases["flux"], file) - by_diffusers(bases["flux"], file)).max() <= ONE_LEVEL


def ai_toolkit(changes: Changes, layers: Mapping[str, tuple[str, ...]]) -> Tensors:
    """A file of ai-toolkit: diffusers' names, and no alpha."""
    return {
        f"transformer.{own}.{end}.weight": value
        for own, (down, up) in own_changes(changes, layers).items()
        for end, value in (("lora_A", down), ("lora_B", up))
    }


def own_changes(changes: Changes, layers: Mapping[str, tuple[str, ...]]) -> Changes:
    """Write changes of single layers under diffusers' names, and leave the others out."""
    return {layers[name][0]: change for name, change in changes.items() if len(layers[name]) == 1}


@pytest.mark.slow
@pytest.mark.parametrize("write", [onetrainer, ai_toolkit])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_files_with_names_of_diffusers_are_the_plain_change(
    bases: Mapping[str, Path],
    family: str,
    write: Callable[[Changes, Mapping[str, tuple[str, ...]]], Tensors],
    tmp_path: Path,
) -> None:
    layers = {
        name: owns
        for name, owns in (SD3_LAYERS if family == "sd3" else FLUX_LAYERS).items()
        if len(owns) == 1 and name not in SHIFT_FIRST
    }
    changes = random_changes(bases[family], layers)
    ours = with_file(bases[family], save(write(changes, layers), tmp_path))
    scale = ALPHA / RANK if write is onetrainer else 1.0
    assert np.abs(ours - by_hand(bases[family], layers, changes, scale)).max() <= ONE_LEVEL


def product_of(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> LayerChange:
    """Make a layer as LyCORIS trains it; the first factor of a LoKr divides into all parts."""
    if kind != "lokr":
        return random_layer(kind, shape, 2, 0.5, generator)
    first = 0.3 * torch.randn(shape[0] // 2, 4, generator=generator)
    return layer_of({".lokr_w1": first, ".lokr_w2": torch.randn(2, shape[1] // 4, generator=generator)}, 1, 1.0)


def with_weights(base: Path, layers: Mapping[str, tuple[str, ...]], changes: Mapping[str, LayerChange]) -> np.ndarray:
    """One image after the base's own weights were changed as the method defines it."""
    family = load_family(str(base), device="cpu", precision="fp32")
    module = family.stages[0].parts["transformer"]
    for name, change in changes.items():
        weights: list[Any] = [module.get_submodule(own).weight for own in layers[name]]
        whole = torch.cat([weight.data for weight in weights])
        swap = name in SHIFT_FIRST
        changed = applied(torch.cat(list(reversed(whole.chunk(2)))) if swap else whole, change)
        changed = torch.cat(list(reversed(changed.chunk(2)))) if swap else changed
        for weight, new in zip(weights, changed.split([len(weight) for weight in weights]), strict=True):
            weight.data = new.to(weight.dtype)
    return generated(family)


@pytest.mark.parametrize("kind", ["dora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("loha", "lokr"))])
@pytest.mark.parametrize("family", [pytest.param("sd3", marks=pytest.mark.slow), "flux"])
def test_other_kinds_of_layers_are_applied_as_defined(
    bases: Mapping[str, Path], family: str, kind: str, tmp_path: Path
) -> None:
    """A DoRA, which diffusers reads as a LoRA, and LoHa and LoKr, which it refuses."""
    base = bases[family]
    layers = {
        name: own
        for name, own in (SD3_LAYERS if family == "sd3" else {**FLUX_LAYERS, **FLUX_MORE}).items()
        if name != "x_embedder.proj"
    }
    shapes = {name: (len(up), down.shape[1]) for name, (down, up) in random_changes(base, layers).items()}
    generator = torch.Generator().manual_seed(2)
    changes = {name: product_of(kind, shape, generator) for name, shape in shapes.items()}
    file: Tensors = {}
    for name, change in changes.items():
        for ending, tensor in change.tensors.items():
            theirs = KOHYA_ENDINGS.get(ending, ending)
            file[f"lora_unet_{name.replace('.', '_')}{theirs}"] = tensor[:, None] if theirs == ".dora_scale" else tensor
        file[f"lora_unet_{name.replace('.', '_')}.alpha"] = torch.tensor(change.alpha)
    ours = with_file(base, save(file, tmp_path))
    assert np.abs(ours - with_weights(base, layers, changes)).max() <= ONE_LEVEL


def test_a_lokr_that_is_cut_inside_a_block_is_applied_as_the_lora_it_equals(
    bases: Mapping[str, Path], tmp_path: Path
) -> None:
    base = bases["flux"]
    layers = {
        name: FLUX_MORE.get(name) or FLUX_LAYERS[name]
        for name in ("single_blocks.0.linear1", "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.proj")
    }
    generator = torch.Generator().manual_seed(3)
    changes: dict[str, LayerChange] = {}
    file: Tensors = {}
    for name, (down, up) in random_changes(base, layers).items():
        tensors = {
            ".lokr_w1": torch.randn(4, 4, generator=generator),
            ".lokr_w2_a": torch.randn(len(up) // 4, 2, generator=generator),
            ".lokr_w2_b": 0.3 * torch.randn(2, down.shape[1] // 4, generator=generator),
        }
        changes[name] = layer_of(tensors, 2, 1.0)
        file |= {f"lora_unet_{name.replace('.', '_')}{ending}": tensor for ending, tensor in tensors.items()}
        file[f"lora_unet_{name.replace('.', '_')}.alpha"] = torch.tensor(1.0)
    ours = with_file(base, save(file, tmp_path))
    assert np.abs(ours - with_weights(base, layers, changes)).max() <= ONE_LEVEL


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_command_writes_what_diffusers_draws(
    bases: Mapping[str, Path],
    family: str,
    tmp_path: Path,
    mascot: Command,
) -> None:
    """From kohya to diffusers and back, also layers that diffusers drops in kohya's form."""
    layers = SD3_LAYERS if family == "sd3" else {**FLUX_LAYERS, **FLUX_MORE}
    texts = text_file("lora_te1_text_model_")
    theirs = save(kohya(random_changes(bases[family], layers)) | texts, tmp_path)
    own, back, comfy = (tmp_path / f"{name}.safetensors" for name in ("own", "back", "comfy"))
    code, _, said = mascot("convert", theirs, own, "--to", "diffusers")
    assert (code, "ComfyUI reads no alphas" in said) == (0, True)
    assert mascot("convert", own, comfy, "--to", "comfyui")[0] == 0
    code, _, said = mascot("convert", comfy, back, "--to", "kohya")
    assert code == 0
    assert ("reads no file of SD3" if family == "sd3" else "drops layers outside the blocks") in said
    before, after = load_file(theirs), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours = with_file(bases[family], theirs)
    assert np.abs(ours - by_diffusers(bases[family], own)).max() <= ONE_LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "loha", "lokr"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_what_is_trained_here_draws_the_same_in_every_format(
    bases: Mapping[str, Path], family: str, variant: Any, tmp_path: Path
) -> None:
    """All layers and text encoders: to the bit, but for the alpha of rsLoRA."""
    stage = load_family(str(bases[family]), device="cpu", precision="fp32").stages[0]
    attached = LoraSettings(rank=2, alpha=3, variant=variant, layers="all").attach(stage, SUBJECT, 0, None)
    tensors, metadata = attached.export()
    generator = torch.Generator().manual_seed(4)
    tensors = {name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in tensors.items()}
    Adapter(tensors=tensors, metadata=metadata, manifest=None).write(tmp_path / "own.safetensors")
    own = with_file(bases[family], tmp_path / "own.safetensors")
    for to in ("kohya", "comfyui", "diffusers"):
        file = tmp_path / f"{to}.safetensors"
        if (variant, to) == ("lokr", "kohya"):
            with pytest.raises(UserError, match=r"second factors; give --to comfyui"):
                convert(tmp_path / "own.safetensors", file, to=to)
            continue
        convert(tmp_path / "own.safetensors", file, to=to)
        difference = np.abs(with_file(bases[family], file) - own).max()
        assert difference <= (ONE_LEVEL if variant == "rslora" else 0), to


@pytest.mark.parametrize(
    ("family", "prefix"), [("sd3", "lora_te3_"), ("sd3", "text_encoders.t5xxl.transformer."), ("flux", "lora_te3_")]
)
def test_a_change_of_the_t5_is_refused_by_name(
    bases: Mapping[str, Path], family: str, prefix: str, tmp_path: Path
) -> None:
    layer = "encoder.block.0.layer.0.SelfAttention.q"
    name = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
    layers = {"final_layer.linear": ("proj_out",), "x_embedder.proj": ("pos_embed.proj",)}
    kept = {key: own for key, own in layers.items() if family == "sd3" or "final" in key}
    file = kohya(random_changes(bases[family], kept))
    file |= {f"{name}.lora_down.weight": torch.ones(2, 64), f"{name}.lora_up.weight": torch.ones(32, 2)}
    adapter = Adapter.read(save(file, tmp_path))
    stage = load_family(str(bases[family]), device="cpu", precision="fp32").stages[0]
    with pytest.raises(UserError, match=rf"changes a T5, in text_encoder_\d\.{layer}.*mascot adapts no T5"):
        restore(stage, adapter.tensors, adapter.metadata)
