"""Every layer of SD3 and FLUX.1 keeps its tensors, rank and alpha through every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from adapters.formats.low_rank_layers import KINDS, layer_of, random_layer
from laws.real_architectures import TRANSFORMERS, adaptable_shapes
from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.formats.layer_settings import Layers, read_own, write_own
from mascot.adapters.formats.registry import FORMATS, architecture_of, read_format, write_format
from mascot.adapters.formats.transformer_layers import ORIGINAL_NAMES, split_number, with_number
from mascot.errors import UserError

Shapes = Mapping[tuple[str, str], tuple[int, ...]]
QUICK = {("flux", "lora")}
CASES = [
    pytest.param(base, kind, marks=() if (base, kind) in QUICK else pytest.mark.slow)
    for base in TRANSFORMERS
    for kind in KINDS
]


def architecture(base: str) -> str:
    """Name the architecture of a base; 3.5 is another size of SD3."""
    return base.partition(".")[0]


def adapter_of(shapes: Shapes, kind: str) -> Layers:
    """Make an adapter of every layer: ranks of all sizes, and one scale for what is joined."""
    generator = torch.Generator().manual_seed(0)
    layers: Layers = {}
    for number, ((part, name), shape) in enumerate(shapes.items()):
        rank, scale = 1 + number % 3, (0.5, 1.0, 2.0)[int(split_number(name)[1] or 0) % 3]
        chosen = "lora" if len(shape) > 2 and kind != "dora" else kind
        layers[part, name] = random_layer(chosen, shape, rank, scale * rank, generator)
        if len(shape) > 2 and kind == "dora":
            magnitudes = layers[part, name].tensors[".lora_magnitude_vector"].reshape(1, -1, 1, 1)
            layers[part, name] = layer_of(
                {**layers[part, name].tensors, ".lora_magnitude_vector": magnitudes}, rank, scale * rank
            )
    return layers


def assert_same(one: Layers, other: Layers) -> None:
    """Check that two adapters are equal to the bit."""
    assert one.keys() == other.keys()
    for key, layer in one.items():
        assert (layer.rank, layer.alpha) == (other[key].rank, other[key].alpha), key
        assert layer.tensors.keys() == other[key].tensors.keys(), key
        assert all(torch.equal(tensor, other[key].tensors[name]) for name, tensor in layer.tensors.items()), key


def through(to: str, layers: Layers, kind: str | None) -> tuple[dict[str, Tensor], Layers]:
    """Write layers in a format and read them back; return the file's tensors, and the layers."""
    tensors, metadata = write_own(layers)
    written, header = write_format(to, tensors, metadata, kind)  # pyright: ignore[reportArgumentType]
    back = read_format(written, header)
    return written, read_own(back.tensors, back.metadata)[0]


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_every_layer_comes_back_bit_for_bit(base: str, kind: str) -> None:
    layers = adapter_of(adaptable_shapes(base), kind)
    known = architecture_of(write_own(layers)[0])
    assert known == architecture(base)
    for name in FORMATS:
        if name == "kohya" and kind == "lokr":
            with pytest.raises(
                UserError, match=r"transformer\.\S+attn\.\S+ because .* second factors; give --to comfy"
            ):
                through(name, layers, known)
            continue
        written, back = through(name, layers, known)
        assert_same(back, layers)
        apart = [key for key in written if key.startswith("lycoris_")]
        assert bool(apart) == (kind == "lokr" and name == "comfyui")


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_what_other_tools_train_as_one_layer_comes_back_bit_for_bit(base: str, kind: str) -> None:
    """Fused layers have up projections without blocks; each part then has the whole rank."""
    names = ORIGINAL_NAMES[architecture(base)]
    shapes = {name: shape for (part, name), shape in adaptable_shapes(base).items() if part == "transformer"}
    generator = torch.Generator().manual_seed(0)
    file: dict[str, Tensor] = {}
    count = 0
    for own, shape in shapes.items():
        template, number = split_number(own)
        name, place = names.places[template]
        if place:
            continue
        rows = sum(shapes[with_number(part, number)][0] for part in names.layers[name])
        layer = fused_layer(kind, (rows, *shape[1:]), 2 * sum(names.shares_of(name)), generator)
        flat = with_number(name, number).replace(".", "_")
        endings = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
        for ending, tensor in layer.tensors.items():
            is_scale = ending == ".lora_magnitude_vector"
            shaped = tensor.reshape(-1, *[1] * (len(shape) - 1)) if is_scale else tensor
            file[f"lora_unet_{flat}{'.dora_scale' if is_scale else endings.get(ending, ending)}"] = shaped
        file[f"lora_unet_{flat}.alpha"] = torch.tensor(layer.alpha)
        count += 1
    own = read_format(file, {})
    assert own.architecture == architecture(base)
    assert len(read_own(own.tensors, own.metadata)[0]) == len(shapes)
    written, _ = write_format("kohya", own.tensors, own.metadata, own.architecture)
    assert written.keys() == file.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in file.items())


def fused_layer(kind: str, shape: Sequence[int], blocks: int, generator: torch.Generator) -> LayerChange:
    """Make a layer as other tools train it; the first factor of a LoKr divides into all parts."""
    if kind != "lokr" or len(shape) > 2:
        chosen = "lora" if len(shape) > 2 and kind != "dora" else kind
        return random_layer(chosen, tuple(shape), 2, 1.0, generator)
    first = torch.randn(blocks, 2, generator=generator)
    second = torch.randn(shape[0] // len(first), 2, generator=generator)
    return layer_of(
        {".lokr_w1": first, ".lokr_w2_a": second, ".lokr_w2_b": torch.randn(2, shape[1] // 2, generator=generator)},
        2,
        1.0,
    )


@pytest.mark.parametrize("base", ["sd3", pytest.param("flux", marks=pytest.mark.slow)])
def test_kohya_names_what_kohya_trains(base: str) -> None:
    """The file names of kohya's own list, which its trainer writes."""
    layers = adapter_of(adaptable_shapes(base), "lora")
    written, _ = through("kohya", layers, base)
    ends = ".lora_down.weight"
    expected = {
        "sd3": ("joint_blocks_23_context_block_attn_qkv", "joint_blocks_0_x_block_mlp_fc1", "x_embedder_proj"),
        "flux": ("double_blocks_18_img_attn_qkv", "single_blocks_37_linear1", "single_blocks_0_modulation_lin"),
    }[base]
    assert {f"lora_unet_{name}{ends}" for name in expected} <= written.keys()
    t5 = f"lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0{ends}"
    clips = {"sd3": ("lora_te1", "lora_te2"), "flux": ("lora_te1",)}[base]
    assert {t5, *(f"{clip}_text_model_encoder_layers_11_mlp_fc1{ends}" for clip in clips)} <= written.keys()


def test_a_transformer_of_unknown_width_is_not_guessed() -> None:
    layers: Layers = {
        ("transformer", "transformer_blocks.0.attn.to_q"): random_layer("lora", (64, 64), 2, 2.0, torch.Generator())
    }
    tensors, metadata = write_own(layers)
    assert architecture_of(tensors) is None
    with pytest.raises(UserError, match=r"SD3 or of FLUX\.1"):
        write_format("kohya", tensors, metadata, None)
