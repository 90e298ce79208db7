"""Laws of weight places: each weight is found in any layout, and written back where it was read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from mascot.errors import UserError
from mascot.models.base_files.weight_places import (
    PARTS,
    BaseFiles,
    converted_probes,
    locate_weights,
    place_of,
    plain_name,
    probes_of,
    put_weight,
    read_weight,
)
from mascot.storage.tensor_files import open_tensors
from tiny.families import tiny_base
from tiny.single_files import Kind, tiny_pipeline, tiny_single_file


def weights_of(pipeline: object) -> dict[str, Tensor]:
    """Every weight of a pipeline that an adapter can change, under the names of its modules."""
    modules = {part: getattr(pipeline, part, None) for part in PARTS}
    return {
        plain_name(part, name): tensor
        for part, module in modules.items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def read_all(base: BaseFiles) -> dict[str, Tensor]:
    """Every weight of a base, as its files have it."""
    with base.opened() as read:
        return {name: read(name) for name in base.places}


def assert_holds(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() >= expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", ["one", "two", "xl"])
def test_every_weight_of_a_single_file_is_found(tmp_path: Path, kind: Kind) -> None:
    path = tiny_single_file(kind, tmp_path / "base.safetensors")
    assert_holds(read_all(locate_weights(path)), weights_of(tiny_pipeline(kind)))


@pytest.mark.parametrize("kind", ["one", "xl"])
def test_every_weight_of_a_folder_is_found(tmp_path: Path, kind: Kind) -> None:
    pipeline = tiny_pipeline(kind)
    pipeline.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    base = locate_weights(tmp_path / "base")
    assert len(base.files) > 2
    assert_holds(read_all(base), weights_of(pipeline))


def test_a_variant_is_read_where_there_are_no_plain_weights(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("one").to(torch.float16)
    pipeline.save_pretrained(tmp_path / "base", variant="fp16")
    assert_holds(read_all(locate_weights(tmp_path / "base")), weights_of(pipeline))


def test_transformers_are_found(tmp_path: Path) -> None:
    base = locate_weights(tiny_base("sd3", tmp_path / "base"))
    assert base.parts == {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3"}


def test_a_weight_is_written_where_it_was_read(tmp_path: Path) -> None:
    base = locate_weights(tiny_single_file("xl", tmp_path / "base.safetensors"))
    names = [
        "text_encoder_2.encoder.layers.1.self_attn.k_proj.weight",
        "text_encoder_2.text_projection.weight",
        "unet.conv_in.weight",
    ]
    for name in names:
        place = base.places[name]
        with open_tensors(place.file) as stored:
            tensors = dict(stored)
            before, weight = {key: tensor.clone() for key, tensor in tensors.items()}, torch.randn(place.shape)
            for run in place.runs:
                put_weight(place, run.key, tensors[run.key], weight)
            changed = {key for key, tensor in tensors.items() if not torch.equal(tensor, before[key])}
            assert changed == {run.key for run in place.runs}
        stored_again = FromMemory(tensors)
        assert torch.equal(read_weight(place, stored_again), weight)  # pyright: ignore[reportArgumentType]


class FromMemory(dict[str, Tensor]):
    """Tensors in place of an open file."""


FUSED = {
    "transformer_blocks.1.attn.to_k.weight": ("double_blocks.1.img_attn.qkv.weight", [3072]),
    "transformer_blocks.0.attn.add_v_proj.bias": ("double_blocks.0.txt_attn.qkv.bias", [6144]),
    "single_transformer_blocks.0.proj_mlp.weight": ("single_blocks.0.linear1.weight", [9216]),
    "norm_out.linear.weight": ("final_layer.adaLN_modulation.1.weight", [3072, 0]),
}
"""Weight of a transformer of real width -> the stored tensor, and where its runs of rows begin."""


def test_joined_projections_and_swapped_halves_are_found() -> None:
    """The names and sizes are those of FLUX.1, with two and one of its blocks."""
    shapes = flux_shapes()
    probes = probes_of(shapes)
    places = {
        name: place_of(Path("x"), list(shapes), shapes, probe)
        for part, found in converted_probes(shapes, probes)
        for name, probe in found.items()
        if part == "transformer"
    }
    with torch.device("meta"):
        module = FluxTransformer2DModel(num_layers=2, num_single_layers=1, guidance_embeds=True)
    assert {name: place.shape for name, place in places.items()} == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }
    for name, (key, firsts) in FUSED.items():
        assert [(run.key, run.first) for run in places[name].runs] == [(key, first) for first in firsts]


def flux_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a FLUX.1 file with two double blocks and a single one."""
    width, mlp = 3072, 12288
    linear: dict[str, tuple[int, int]] = {
        "img_in": (width, 64),
        "txt_in": (width, 4096),
        "time_in.in_layer": (width, 256),
        "time_in.out_layer": (width, width),
        "vector_in.in_layer": (width, 768),
        "vector_in.out_layer": (width, width),
        "guidance_in.in_layer": (width, 256),
        "guidance_in.out_layer": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (64, width),
        "single_blocks.0.linear1": (3 * width + mlp, width),
        "single_blocks.0.linear2": (width, width + mlp),
        "single_blocks.0.modulation.lin": (3 * width, width),
    }
    norms = ["single_blocks.0.norm.query_norm.scale", "single_blocks.0.norm.key_norm.scale"]
    for block in ("double_blocks.0.", "double_blocks.1."):
        for side in ("img", "txt"):
            linear |= {
                f"{block}{side}_mod.lin": (6 * width, width),
                f"{block}{side}_attn.qkv": (3 * width, width),
                f"{block}{side}_attn.proj": (width, width),
                f"{block}{side}_mlp.0": (mlp, width),
                f"{block}{side}_mlp.2": (width, mlp),
            }
            norms += [f"{block}{side}_attn.norm.{which}_norm.scale" for which in ("query", "key")]
    weights = {f"{name}.weight": shape for name, shape in linear.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return {**weights, **biases, **dict.fromkeys(norms, (128,))}


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights of a base"):
        locate_weights(tmp_path)
    path = tiny_single_file("one", tmp_path / "base.safetensors")
    assert len(load_file(path)) > 100
