"""What inspect says is what is in the file: energies by plain computation, faults by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from mascot.adapters.formats.layer_settings import read_own
from mascot.adapters.formats.numbered_layers import read_numbered
from mascot.adapters.formats.registry import write_format
from mascot.adapters.lora_keys import DOWN, UP, write_metadata
from mascot.adapters.peft_folder import write_peft_folder
from mascot.api.adapters.inspect import inspect
from mascot.api.adapters.inspection.energies import energy_of
from mascot.api.adapters.inspection.inspection_text import write_json
from mascot.cli.app import app
from mascot.errors import UserError
from tiny.families import tiny_base as tiny_family
from tiny.single_files import tiny_single_file
from tiny.world import World

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
KINDS: Mapping[str, Callable[[list[str]], Any]] = {
    "lora": lambda names: LoraConfig(r=4, lora_alpha=6, target_modules=names, alpha_pattern={"to_k": 3}),
    "rslora": lambda names: LoraConfig(r=4, lora_alpha=6, target_modules=names, use_rslora=True),
    "loha": lambda names: LoHaConfig(r=3, alpha=5, target_modules=names, use_effective_conv2d=True),
    "lokr": lambda names: LoKrConfig(r=3, alpha=5, target_modules=names, use_effective_conv2d=True),
    "whole lokr": lambda names: LoKrConfig(r=64, alpha=5, target_modules=names),
}


class Block(nn.Module):
    """Two linear layers and two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(12, 20), nn.Linear(10, 14)
        self.conv1, self.conv_shortcut = nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_energy_is_that_of_the_whole_weight_change(kind: str) -> None:
    module = nn.Sequential()
    module.add_module("block", Block())
    config = KINDS[kind](["to_q", "to_k", "conv1", "conv_shortcut"])
    inject_adapter_in_model(config, module)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    tensors = {f"unet.{key}": value for key, value in get_peft_model_state_dict(module, adapter_name="default").items()}
    layers, _ = read_own(tensors, write_metadata({"unet": config.to_dict()}))
    plain = {
        name: float(layer.get_delta_weight("default").detach().double().square().sum())  # pyright: ignore[reportCallIssue]
        for name, layer in module.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    assert len(plain) == 4
    assert {name: energy_of(change) for (_, name), change in layers.items()} == pytest.approx(plain, rel=1e-5)


def unet_file(rank: int = 4, alpha: float = 2.0) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Make a LoRA of some layers of Stable Diffusion 1 and its text encoder, in our form."""
    shapes = {
        f"unet.{ATTENTION}.to_q": (640, 640),
        f"unet.{ATTENTION}.to_k": (640, 768),
        "unet.up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_out.0": (640, 640),
        **{
            f"text_encoder.text_model.encoder.layers.0.self_attn.{name}": (768, 768)
            for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        },
    }
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for layer, (out, inner) in shapes.items():
        tensors[f"{layer}{DOWN}"] = torch.randn(rank, inner, generator=generator)
        tensors[f"{layer}{UP}"] = torch.randn(out, rank, generator=generator)
    settings = {"r": rank, "lora_alpha": alpha}
    return tensors, write_metadata({"unet": settings, "text_encoder": settings})


def plain_energy(tensors: Mapping[str, Tensor], start: str, scale: float) -> float:
    """Add up the energies of the layers whose names start alike, from whole matrices."""
    layers = [key.removesuffix(DOWN) for key in tensors if key.startswith(start) and key.endswith(DOWN)]
    changes = [scale * tensors[f"{layer}{UP}"].double() @ tensors[f"{layer}{DOWN}"].double() for layer in layers]
    return sum(float(change.square().sum()) for change in changes)


@pytest.mark.parametrize("to", ["diffusers", "kohya", "comfyui", "peft"])
def test_every_format_of_one_adapter_is_told_alike(tmp_path: Path, to: str) -> None:
    tensors, metadata = unet_file()
    written, header = write_format(to, tensors, metadata, "sd1")
    if to == "peft":
        write_peft_folder(tmp_path / "a.safetensors", written, header)
    else:
        save_file(written, tmp_path / "a.safetensors", header)
    found = inspect(tmp_path / "a.safetensors")
    assert (found.what, found.architecture, found.format) == ("a LoRA", "sd1", to)
    assert {part.part: (part.layers, part.ranks, part.alphas) for part in found.parts} == {
        "unet": (3, (4,), (2.0,)),
        "text_encoder": (4, (4,), (2.0,)),
    }
    assert {(block.part, block.block): block.energy.energy for block in found.blocks} == pytest.approx(
        {
            ("unet", "down_blocks.1"): plain_energy(tensors, "unet.down", 0.5),
            ("unet", "up_blocks.2"): plain_energy(tensors, "unet.up", 0.5),
            ("text_encoder", "text_encoder"): plain_energy(tensors, "text", 0.5),
        }
    )
    assert found.warnings == ()


def test_a_dora_has_no_energy_without_its_base(tmp_path: Path) -> None:
    tensors, metadata = unet_file()
    tensors |= {
        f"{key.removesuffix(UP)}.lora_magnitude_vector": torch.ones(len(tensor))
        for key, tensor in tensors.items()
        if key.startswith("unet") and key.endswith(UP)
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    found = inspect(tmp_path / "a.safetensors")
    unet = next(part for part in found.parts if part.part == "unet")
    assert (found.what, unet.energy.energy, unet.energy.unknown) == ("a DoRA and a LoRA", 0, 3)
    said = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.safetensors")]).stdout
    assert "not known without the base" in said


LAYER = f"unet.{ATTENTION}.to_q"
FAULTS: Mapping[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "half": (lambda t: void(t.pop(LAYER + UP)), "1 of 7 layers lack half of their weights"),
    "NaN": (lambda t: void(t[LAYER + UP].fill_(torch.nan)), "1 of 7 layers have NaN or infinite weights"),
    "nothing": (lambda t: void(t[LAYER + UP].zero_()), "1 of 3 layers of unet change nothing"),
    "ranks": (lambda t: t.update({LAYER + UP: torch.ones(640, 3)}), "1 of 7 layers have a form that is not read here"),
    "integers": (
        lambda t: t.update({LAYER + UP: torch.ones(640, 4, dtype=torch.int)}),
        "1 of 7 layers hold whole numbers",
    ),
    "lost": (
        lambda t: t.update({"lora_unet_no.lora_up.weight": torch.ones(2, 2)}),
        "1 of 8 layers are of no base that is known",
    ),
    "absent": (
        lambda t: t.update(
            {key.replace("down_blocks.1", "down_blocks.7"): t[key] + 0 for key in (LAYER + UP, LAYER + DOWN)}
        ),
        "1 of 8 layers are in no base of its kind (sd1)",
    ),
    "stray": (lambda t: t.update({"something": torch.ones(2, 2, 2)}), "1 of its tensors belong to no layer"),
    "T5": (lambda t: t.update({"bundle_emb.owl.t5": torch.ones(2, 2)}), "the word owl has rows for a T5"),
}


def void(_: object) -> None:
    """Return nothing."""


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_becomes_a_warning(tmp_path: Path, fault: str) -> None:
    tensors, metadata = unet_file()
    change, says = FAULTS[fault]
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    warnings = inspect(tmp_path / "a.safetensors").warnings
    assert len(warnings) == 1
    assert says in warnings[0]
    assert f"warning: {says}" in CliRunner().invoke(app, ["inspect", str(tmp_path / "a.safetensors")]).stdout


def test_an_alpha_of_zero_and_another_rank_in_the_header_are_told(tmp_path: Path) -> None:
    tensors, metadata = unet_file(alpha=3.0)
    kohya, _ = write_format("kohya", tensors, metadata, "sd1")
    first = next(key for key in kohya if key.endswith(".alpha"))
    save_file(kohya | {first: torch.tensor(0.0)}, tmp_path / "zero.safetensors")
    assert "1 of 7 layers have an alpha of 0" in " ".join(inspect(tmp_path / "zero.safetensors").warnings)
    lie = write_metadata({"unet": {"r": 8, "lora_alpha": 8}})
    save_file(tensors, tmp_path / "lie.safetensors", lie)
    assert "the header states another rank for 3 of 7 layers" in " ".join(
        inspect(tmp_path / "lie.safetensors").warnings
    )


def test_the_header_is_compared_with_the_tensors(tmp_path: Path) -> None:
    tensors, metadata = unet_file()
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata)
    content = path.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    right = {
        "modelspec.hash_sha256": f"0x{digest}",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "sshs_model_hash": digest,
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
    }
    wrong = {
        "modelspec.hash_sha256": f"0x{hashlib.sha256(b'').hexdigest()}",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "sshs_model_hash": "0" * 64,
        "ss_network_dim": "8",
        "ss_network_alpha": "one",
        "ss_v2": "True",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    for header, verdict in ((right, "right"), (wrong, "wrong")):
        save_file(tensors, path, metadata | header | {"ss_output_name": "owl"})
        found = inspect(path)
        assert {one.key: one.verdict for one in found.statements} == {
            **dict.fromkeys(header, verdict),
            "ss_output_name": "not checked",
        }
        assert len(found.warnings) == (0 if verdict == "right" else len(wrong))
    assert any("the hash of nothing" in warning for warning in found.warnings)


def test_a_run_tells_how_it_was_trained_and_json_says_the_same(world: World) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(world.run.folder), str(world.run.adapter)])
    assert shown.exit_code == 0, shown.output
    for words in ("trigger", "sks dog", "method", "lora", "base", "steps", "knobs"):
        assert words in shown.stdout
    printed = json.loads(CliRunner().invoke(app, ["inspect", "--json", str(world.run.folder)]).stdout)
    found = inspect(world.run.folder)
    assert printed == json.loads(write_json([found]))
    assert (printed[0]["trigger"], printed[0]["method"], printed[0]["steps"]) == ("sks dog", "lora", found.steps)
    assert printed[0]["bytes"] == world.run.adapter.stat().st_size
    assert found.parameters == sum(tensor.numel() for tensor in world.adapter.tensors.values())
    assert found.warnings == ()


def test_words_are_named(tmp_path: Path) -> None:
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, tmp_path / "owl.safetensors")
    torch.save({"string_to_param": {"*": torch.ones(3, 768)}}, tmp_path / "cat.pt")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "owl.safetensors"), str(tmp_path / "cat.pt")]).stdout
    assert "owl (2 rows of 768 and 1280)" in shown
    assert "cat (3 rows of 768)" in shown
    assert "1 word, pickled" in shown


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_base_folder_is_told_by_its_headers_alone(tmp_path: Path, name: str) -> None:
    found = inspect(tiny_family(name, tmp_path / name))
    assert found.architecture == name
    assert "a base folder" in found.what
    assert {size.part for size in found.sizes} >= {"text_encoder", "text_encoder_2", "vae"}
    assert found.prediction == {"sdxl": "epsilon", "flux": "flow"}[name]
    assert found.dtypes.keys() == {"F32"}
    assert CliRunner().invoke(app, ["inspect", found.path]).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "pipeline"), [("one", "StableDiffusionPipeline"), ("xl", "StableDiffusionXLPipeline")]
)
def test_a_checkpoint_is_told_by_its_header_alone(tmp_path: Path, kind: Any, pipeline: str) -> None:
    path = tiny_single_file(kind, tmp_path / "base.safetensors")
    found = inspect(path)
    assert pipeline in found.what
    assert {size.part for size in found.sizes} >= {"UNet", "autoencoder", "text encoder"}
    assert sum(size.parameters for size in found.sizes) == found.parameters


def test_what_is_nothing_is_refused_in_one_sentence(tmp_path: Path) -> None:
    tensors, metadata = unet_file()
    save_file(tensors, tmp_path / "whole.safetensors", metadata)
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save(tensors, tmp_path / "pickle.safetensors")
    torch.save({"a": 3}, tmp_path / "other.pt")
    save_file({"layers.0.weight": torch.ones(2, 2), "b": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "two").mkdir()
    for name in "ab":
        save_file(tensors, tmp_path / "two" / f"{name}.safetensors")
    for name, says in {
        "half.safetensors": "not a whole .safetensors file",
        "text.safetensors": "not a whole .safetensors file",
        "pickle.safetensors": "a file of pickled weights under another name",
        "other.pt": "is a pickled file and holds no words",
        "other.safetensors": "holds nothing that mascot knows",
        "nothing": "does not exist",
        "folder": "holds no run, no base and no adapter",
        "two": "holds 2 .safetensors files; give one of them",
    }.items():
        with pytest.raises(UserError, match=says) as refused:
            inspect(tmp_path / name)
        assert str(refused.value).count(". ") == 0


def test_folders_of_models_on_the_hub_are_read_by_their_usual_names(tmp_path: Path) -> None:
    tensors, metadata = unet_file()
    for name in ("pytorch_lora_weights", "own_name"):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / f"{name}.safetensors", metadata)
        assert inspect(tmp_path / name).what == "a LoRA"


@pytest.mark.parametrize(("name", "words", "rank"), [("analog_svd_rank4", 0, 4), ("lora_disney", 2, 1)])
def test_real_files_are_told_whole(shared_data: Path, name: str, words: int, rank: int) -> None:
    from safetensors.torch import load_file

    path = shared_data / "peer_adapters" / f"{name}.safetensors"
    found = inspect(path)
    assert (found.architecture, found.format, len(found.words), found.warnings) == ("sd1", "cloneofsimo", words, ())
    assert {part.part: (part.layers, part.ranks) for part in found.parts} == {
        "unet": (144, (rank,)),
        "text_encoder": (48, (rank,)),
    }
    own = read_numbered({key: value for key, value in load_file(path).items() if ":" in key})
    for part in found.parts:
        assert part.energy.energy == pytest.approx(plain_energy(own, f"{part.part}.", 1.0))


def test_fused_layers_have_the_energy_of_the_layers_in_them(tmp_path: Path) -> None:
    shapes = {
        **{f"transformer_blocks.0.attn.{name}": (3072, 3072) for name in ("to_q", "to_k", "to_v")},
        **{f"single_transformer_blocks.1.attn.{name}": (3072, 3072) for name in ("to_q", "to_k", "to_v")},
        "single_transformer_blocks.1.proj_mlp": (12288, 3072),
    }
    tensors: dict[str, Tensor] = {}
    for name, (out, inner) in shapes.items():
        generator = torch.Generator().manual_seed(len(tensors))
        tensors[f"transformer.{name}{DOWN}"] = torch.randn(1, inner, generator=generator)
        tensors[f"transformer.{name}{UP}"] = torch.randn(out, 1, generator=generator)
    written, header = write_format("kohya", tensors, {}, "flux")
    assert len(written) == 2 * 3
    save_file(written, tmp_path / "a.safetensors", header)
    found = inspect(tmp_path / "a.safetensors")
    assert (found.architecture, found.format, found.warnings) == ("flux", "kohya", ())
    assert {block.block: block.energy.energy for block in found.blocks} == pytest.approx(
        {
            "transformer_blocks.0": plain_energy(tensors, "transformer.transformer_blocks", 1.0),
            "single_transformer_blocks.1": plain_energy(tensors, "transformer.single", 1.0),
        }
    )


def test_the_embedded_base_is_inspected_by_its_name() -> None:
    found = inspect("starter")
    assert found.what == "a base folder (StableDiffusionPipeline)"
    assert {size.part for size in found.sizes} >= {"unet", "text_encoder"}
