"""`mascot convert`: what is refused, and what other commands make of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.peft_layers import adapter_parameters, lora_layers
from mascot.diffusion.noise import seeded
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from tiny.commands import Command
from tiny.photos import noise
from tiny.stable_diffusion import SUBJECT

FLAT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PAIR = {f"{FLAT}.lora_down.weight": torch.rand(2, 16), f"{FLAT}.lora_up.weight": torch.rand(16, 2)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of kohya's scripts."""
    save_file(PAIR, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def refused(mascot: Command, *words: object) -> str:
    """Run a command that must be refused in one sentence, which is returned."""
    code, printed, errors = mascot(*words)
    assert (code, printed, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith("mascot: ")
    assert errors.endswith(".\n")
    return errors


def test_a_place_that_is_taken_or_misnamed_is_refused(mascot: Command, source: Path, tmp_path: Path) -> None:
    assert "exists already" in refused(mascot, "convert", source, source, "--to", "diffusers")
    said = refused(mascot, "convert", source, tmp_path / "b.pt", "--to", "diffusers")
    assert f"give {tmp_path / 'b.pt'}.safetensors." in said
    assert mascot("convert", source, f"{tmp_path / 'b.pt'}.safetensors", "--to", "diffusers")[0] == 0
    said = refused(mascot, "convert", source, tmp_path / "c.safetensors", "--to", "peft")
    assert f"give {tmp_path / 'c'}." in said
    assert mascot("convert", source, tmp_path / "c", "--to", "peft")[0] == 0


BAD: Mapping[str, Mapping[str, Tensor]] = {
    "has NaN or infinite weights": PAIR | {f"{FLAT}.lora_up.weight": torch.full((16, 2), float("nan"))},
    "1 of its 3 keys have no layer that mascot knows, lora_unet_other": PAIR
    | {"lora_unet_other.alpha": torch.ones(())},
    "is without the other half": {f"{FLAT}.lora_down.weight": torch.rand(2, 16)},
    "halves of different rank": PAIR | {f"{FLAT}.lora_up.weight": torch.rand(16, 3)},
    "one for each input of the layer": PAIR | {f"{FLAT}.dora_scale": torch.rand(1, 16)},
    "OFT or BOFT": {f"{FLAT}.oft_blocks": torch.rand(2, 2)},
}


@pytest.mark.parametrize(("says", "tensors"), BAD.items(), ids=BAD)
def test_a_file_that_cannot_be_read_is_refused_and_nothing_is_written(
    mascot: Command, tmp_path: Path, says: str, tensors: Mapping[str, Tensor]
) -> None:
    save_file(dict(tensors), tmp_path / "a.safetensors")
    assert says in refused(mascot, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "kohya")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_ten_thousand_keys_of_no_layer_are_counted(mascot: Command, tmp_path: Path) -> None:
    save_file({f"lora_unet_{n}.lora_up.weight": torch.zeros(1, 1) for n in range(10_000)}, tmp_path / "a.safetensors")
    said = refused(mascot, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "kohya")
    assert "10000 of its 10000 keys have no layer" in said
    assert len(said) < 600


def test_a_layer_without_a_name_in_the_format_is_refused_and_a_remedy_works(mascot: Command, tmp_path: Path) -> None:
    name = "unet.strange.layer"
    pair = {f"{name}.lora_A.weight": torch.rand(2, 4), f"{name}.lora_B.weight": torch.rand(4, 2)}
    save_file(pair, tmp_path / "a.safetensors")
    said = refused(mascot, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "kohya")
    assert "kohya has no name for 1 of its 1 layers, unet.strange.layer; give --to diffusers or peft." in said
    assert mascot("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "diffusers")[0] == 0
    assert mascot("convert", tmp_path / "a.safetensors", tmp_path / "b", "--to", "peft")[0] == 0


def test_a_dtype_rounds_weights_and_no_alpha_and_refuses_what_it_cannot_hold(mascot: Command, tmp_path: Path) -> None:
    alpha = {f"{FLAT}.alpha": torch.tensor(1.2345678)}
    save_file(PAIR | alpha, tmp_path / "a.safetensors")
    for dtype, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        out = tmp_path / f"{dtype}.safetensors"
        assert mascot("convert", tmp_path / "a.safetensors", out, "--to", "kohya", "--dtype", dtype)[0] == 0
        written = load_file(out)
        assert torch.equal(written[f"{FLAT}.lora_up.weight"], PAIR[f"{FLAT}.lora_up.weight"].to(kind))
        assert float(written[f"{FLAT}.alpha"]) == float(alpha[f"{FLAT}.alpha"])
    save_file(PAIR | {f"{FLAT}.lora_up.weight": torch.full((16, 2), 1e5)}, tmp_path / "large.safetensors")
    words = ("convert", tmp_path / "large.safetensors", tmp_path / "b.safetensors", "--to", "kohya", "--dtype")
    assert "fp16 cannot hold; give --dtype bf16 or fp32." in refused(mascot, *words, "fp16")
    assert mascot(*words, "bf16")[0] == 0


@pytest.mark.parametrize("variant", ["loha", "lokr"])
@pytest.mark.parametrize("layers", ["attention", "all"])
def test_peft_itself_reads_products_that_were_trained_here(
    mascot: Command, tiny_base: Path, tmp_path: Path, variant: Any, layers: Any
) -> None:
    stage = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    attached = LoraSettings(variant=variant, rank=3, alpha=5, layers=layers, text_learning_rate=0).attach(
        stage, SUBJECT, 0, None
    )
    unet: Any = stage.parts["unet"]
    for name, layer in lora_layers(unet):
        for parameter in adapter_parameters(layer):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=seeded(name))
    question = (torch.rand(1, 4, 8, 8), torch.tensor([500]), torch.rand(1, 5, 32))
    with torch.no_grad():
        expected = unet(*question).sample
    tensors, metadata = attached.export()
    attached.detach()
    Adapter(tensors=tensors, metadata=metadata, manifest=None).write(tmp_path / "a.safetensors")
    assert mascot("convert", tmp_path / "a.safetensors", tmp_path / "a", "--to", "peft")[0] == 0
    with torch.no_grad():
        plain = unet(*question).sample
        PeftModel.from_pretrained(unet, tmp_path / "a" / "unet")
        read = unet(*question).sample
    assert torch.allclose(read, expected, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)
    back = Adapter.read(tmp_path / "a")
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[key], tensor) for key, tensor in tensors.items())


@pytest.mark.slow
def test_every_command_takes_a_converted_run(mascot: Command, tiny_base: Path, tmp_path: Path) -> None:
    """Its manifest goes with it: the base, the subject and the knobs are known."""
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for number in range(3):
        noise(64 + number, 64).save(photos / f"{number}.png")
    settings = (
        *("training.steps=2", "previews.every=0", "prior.count=0", "knobs.steps=2", "method.rank=2", "method.alpha=5"),
        *("precision=fp32", "selection.active=false", "diagnosis.active=false", "report.images=0"),
    )
    sets = [word for setting in settings for word in ("--set", setting)]
    given = ("--class-noun", "dog", "--token", "sks", "--base", tiny_base, *sets)
    assert mascot("train", photos, *given, "--out", run)[0] == 0
    images: dict[str, Any] = {}
    for to, out in (("kohya", "k.safetensors"), ("comfyui", "c.safetensors"), ("peft", "p")):
        assert mascot("convert", run, tmp_path / out, "--to", to)[0] == 0
        subject = "a sks dog" if to == "peft" else "a {subject}"
        base = ("--base", tiny_base) if to == "peft" else ()
        words = ("generate", tmp_path / out, subject, "--count", 1, "--steps", 2, "--out", tmp_path / to, *base)
        code, printed, errors = mascot(*words)
        assert code == 0, errors
        images[to] = np.asarray(Image.open(printed.strip()))
    code, printed, _ = mascot("generate", run, "a {subject}", "--count", 1, "--steps", 2, "--out", tmp_path / "own")
    assert code == 0
    own = np.asarray(Image.open(printed.strip()))
    assert np.array_equal(images["kohya"], own)
    assert np.array_equal(images["comfyui"], own)
    assert mascot("inspect", tmp_path / "k.safetensors")[0] == 0
    kept = [word for setting in settings if not setting.startswith("method") for word in ("--set", setting)]
    start = ("train", photos, "--from", tmp_path / "k.safetensors", *kept, "--out", tmp_path / "run2")
    code, _, errors = mascot(*start)
    assert code == 0, errors
