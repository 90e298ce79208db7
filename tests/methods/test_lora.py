"""Laws of LoRA: a new one changes nothing, only its layers train, and its file is portable."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.adapters.lora_keys import METADATA_KEY
from mascot.adapters.peft_layers import lora_layers
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings, restore
from mascot.models.families.registry import load_family
from mascot.protocols import AttachedMethod, Batch, Family, Framing, Latents, Stage
from mascot.training.loop import Loop
from mascot.training.settings import TrainingSettings
from tiny.stable_diffusion import SUBJECT

FRAMING = Framing(original=(64, 64), target=(64, 64))
REQUEST = ImageRequest("a photo of sks dog on a beach", 3)
KNOBS = Knobs(steps=4, guidance=3.0)
LAYER_SETS = ("attention", "transformer", "all")
ROOT = Path(__file__).resolve().parents[2]


def loaded(base: Path) -> Family:
    return load_family(str(base), device="cpu", precision="fp32")


@pytest.fixture
def family(tiny_base: Path) -> Family:
    return loaded(tiny_base)


@pytest.fixture
def stage(family: Family) -> Stage:
    return family.stages[0]


def predictions(stage: Stage) -> tuple[Tensor, Tensor]:
    """Encode a prompt and predict once: the outputs of text encoder and denoiser."""
    with torch.no_grad():
        conditioning = stage.condition([REQUEST.prompt], [FRAMING])
        noise = gaussian((4, 8, 8), [seeded("question")])
        return conditioning["encoder_hidden_states"], stage.predict(noise, torch.tensor([500]), conditioning)


def weights(stage: Stage) -> dict[str, str]:
    """Hash every weight and buffer but the LoRA's, under the names of the base model."""
    codec: Any = stage.image_codec  # pyright: ignore[reportAttributeAccessIssue]
    modules: dict[str, nn.Module] = {**stage.parts, "vae": codec.module}
    return {
        f"{part}.{name.replace('.base_layer.', '.')}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
        if ".lora_" not in name
    }


def batch(number: int) -> Batch:
    mean = gaussian((4, 8, 8), [seeded("photo", number % 2)])
    latents = Latents(mean_BCHW=mean, deviation_BCHW=mean.abs() / 10)
    weight = torch.ones(1)
    return Batch(
        latents=latents,
        prompts=("a photo of sks dog",),
        framings=(FRAMING,),
        weight_B=weight,
        subject_count=1,
        generators=(seeded(number),),
    )


def trained(stage: Stage, settings: LoraSettings, steps: int = 3) -> AttachedMethod:
    attached = settings.attach(stage, SUBJECT, 0, None)
    loop = Loop(
        stage, attached, TrainingSettings(steps=steps), stage.condition, Accelerator(cpu=True, mixed_precision="no")
    )
    for _ in loop.steps(lambda step: [batch(step)]):
        pass
    return attached


def invented(stage: Stage, settings: LoraSettings, size: float = 0.2) -> AttachedMethod:
    """Attach a LoRA whose layers change the image visibly, without training."""
    attached = settings.attach(stage, SUBJECT, 0, None)
    for part in settings.trains(stage):
        for name, layer in lora_layers(stage.parts[part]):
            up = layer.lora_B["default"].weight
            up.data.copy_(gaussian(up.shape, [seeded("up", part, name)])[0] * size)
    return attached


def adapter_of(attached: AttachedMethod, family: Family) -> Adapter:
    tensors, metadata = attached.export()
    facts = {"token": "sks", "class_noun": "dog", "resolution": 64, "step": 3, "recipe": {}}
    manifest = Manifest.model_validate({"method": "lora", "base": "tiny", "base_identity": family.identity, **facts})
    return Adapter(tensors=tensors, metadata=metadata, manifest=manifest)


def generated(generator: Generator, knobs: Knobs = KNOBS, request: ImageRequest = REQUEST) -> NDArray[np.int16]:
    return np.asarray(next(generator.generate([request], knobs))).astype(np.int16)


def difference(one: NDArray[np.int16], other: NDArray[np.int16]) -> int:
    """Find the largest difference of a pixel value, of 255."""
    return int(np.abs(one - other).max())


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_a_fresh_lora_changes_no_bit(stage: Stage, layers: Any) -> None:
    before = predictions(stage)
    attached = LoraSettings(layers=layers).attach(stage, SUBJECT, 0, None)
    assert equal(before, predictions(stage)) == (True, True)
    assert sum(p.numel() for group in attached.groups for p in group.parameters) > 0


def test_a_fresh_lora_is_decided_by_its_seed(tiny_base: Path) -> None:
    exports = [
        LoraSettings().attach(loaded(tiny_base).stages[0], SUBJECT, seed, None).export()[0] for seed in (0, 0, 1)
    ]
    downs = [key for key in exports[0] if ".lora_A." in key]
    assert all(torch.equal(exports[0][key], exports[1][key]) for key in exports[0])
    assert not any(torch.equal(exports[0][key], exports[2][key]) for key in downs)
    assert len({exports[0][key].numpy().tobytes() for key in downs}) == len(downs)


@pytest.mark.parametrize("text_learning_rate", [0.0, 1e-3])
@pytest.mark.parametrize("layers", LAYER_SETS)
def test_only_what_is_exported_moves(stage: Stage, layers: Any, text_learning_rate: float) -> None:
    before = weights(stage)
    attached = LoraSettings(rank=4, layers=layers, learning_rate=1e-3, text_learning_rate=text_learning_rate).attach(
        stage, SUBJECT, 0, None
    )
    fresh, _ = attached.export()
    attached.detach()
    exported, _ = trained(
        stage, LoraSettings(rank=4, layers=layers, learning_rate=1e-3, text_learning_rate=text_learning_rate)
    ).export()
    assert weights(stage) == before
    assert set(exported) == set(fresh)
    assert [key for key in exported if torch.equal(exported[key], fresh[key])] == []
    trainable = [p for part in stage.parts.values() for p in part.parameters() if p.requires_grad]
    assert len(trainable) == len(exported)
    assert any(key.startswith("text_encoder.") for key in exported) == (text_learning_rate > 0)


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_every_layer_of_a_set_changes_and_each_set_holds_the_one_before(stage: Stage, layers: Any) -> None:
    names = [set(stage.adaptable("unet", wanted)) for wanted in LAYER_SETS]
    assert names[0] < names[1] < names[2]
    attached = LoraSettings(layers=layers).attach(stage, SUBJECT, 0, None)
    assert {name for name, _ in lora_layers(stage.parts["unet"])} == names[LAYER_SETS.index(layers)]
    attached.detach()


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_text_encoders_get_a_full_set_of_projections(stage: Stage, layers: Any) -> None:
    LoraSettings(layers=layers).attach(stage, SUBJECT, 0, None)
    changed = {name for name, _ in lora_layers(stage.parts["text_encoder"])}
    blocks = len({name.split(".layers.")[1].split(".")[0] for name in changed})
    projections = {name.rpartition(".")[2] for name in changed}
    assert projections >= {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert blocks == 2
    assert len(changed) == blocks * len(projections)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (8, 2.0), (4, 32.0), (3, 1.5)])
def test_exported_and_restored_generates_the_same_pixels(
    tiny_base: Path, family: Family, tmp_path: Path, rank: int, alpha: float
) -> None:
    stage = family.stages[0]
    plain = generated(Generator(family))
    attached = invented(stage, LoraSettings(rank=rank, alpha=alpha, layers="all"), size=0.2 * rank / alpha)
    expected = generated(Generator(family))
    adapter_of(attached, family).write(tmp_path / "a.safetensors")
    attached.detach()
    assert difference(generated(Generator(family)), plain) == 0
    read = Adapter.read(tmp_path / "a.safetensors")
    assert difference(generated(Generator(family, read)), expected) == 0
    assert difference(generated(Generator(loaded(tiny_base), read)), expected) == 0
    assert difference(expected, plain) > 2
    if alpha != rank:
        without_alpha = Adapter(tensors=read.tensors, metadata={}, manifest=read.manifest)
        assert difference(generated(Generator(loaded(tiny_base), without_alpha)), expected) > 0


def test_restored_and_exported_is_the_same_file(tiny_base: Path, family: Family, tmp_path: Path) -> None:
    attached = trained(family.stages[0], LoraSettings(rank=4, alpha=2))
    adapter_of(attached, family).write(tmp_path / "a.safetensors")
    read = Adapter.read(tmp_path / "a.safetensors")
    other = loaded(tiny_base).stages[0]
    again = LoraSettings(rank=4, alpha=2).attach(other, SUBJECT, 1, None)
    for group in again.groups:
        names = dict(other.parts[group.part].named_parameters())
        ours = dict(family.stages[0].parts[group.part].named_parameters())
        for name, parameter in names.items():
            if ".lora_" in name:
                parameter.data.copy_(ours[name].data)
    tensors, metadata = again.export()
    assert metadata == read.metadata
    assert {key: tensor.numpy().tobytes() for key, tensor in tensors.items()} == {
        key: t.numpy().tobytes() for key, t in read.tensors.items()
    }


FRESH = """
import sys
from pathlib import Path
from mascot.adapters.adapter_file import Adapter
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
base, adapter, out, prompt, seed, knobs = sys.argv[1:]
generator = Generator(load_family(base, device="cpu", precision="fp32"), Adapter.read(Path(adapter)))
next(generator.generate([ImageRequest(prompt, int(seed))], Knobs.model_validate_json(knobs))).save(out)
"""


def test_a_fresh_process_generates_the_same_pixels(tiny_base: Path, family: Family, tmp_path: Path) -> None:
    from PIL import Image

    adapter_of(invented(family.stages[0], LoraSettings(rank=4, alpha=2)), family).write(tmp_path / "a.safetensors")
    here = generated(Generator(family))
    arguments = [
        str(tiny_base),
        str(tmp_path / "a.safetensors"),
        str(tmp_path / "a.png"),
        REQUEST.prompt,
        str(REQUEST.seed),
        KNOBS.model_dump_json(),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(
        [sys.executable, "-c", FRESH, *arguments], check=True, env=environment, capture_output=True, timeout=300
    )
    with Image.open(tmp_path / "a.png") as image:
        assert difference(np.asarray(image).astype(np.int16), here) == 0


def theirs(base: Path, adapter: Path | None, *, scales: Mapping[str, float] | None = None) -> NDArray[np.int16]:
    """Generate the image with diffusers alone, from the same noise."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, adapter_name="mascot")
        if scales is not None:
            pipeline.set_adapters("mascot", [dict(scales)])  # pyright: ignore[reportArgumentType]
    noise = gaussian((4, 8, 8), [seeded("picture", REQUEST.seed)])
    result: Any = pipeline(
        REQUEST.prompt, latents=noise, num_inference_steps=KNOBS.steps, guidance_scale=KNOBS.guidance, output_type="np"
    )
    return (result.images[0] * 255).round().astype(np.int16)


@pytest.mark.parametrize("layers", LAYER_SETS)
def test_diffusers_generates_from_our_file_as_we_do(
    tiny_base: Path, family: Family, tmp_path: Path, layers: Any
) -> None:
    plain = generated(Generator(family))
    adapter_of(invented(family.stages[0], LoraSettings(rank=4, alpha=8, layers=layers), size=0.1), family).write(
        tmp_path / "a.safetensors"
    )
    ours = generated(Generator(loaded(tiny_base), Adapter.read(tmp_path / "a.safetensors")))
    assert difference(theirs(tiny_base, None), plain) <= 1
    assert difference(theirs(tiny_base, tmp_path / "a.safetensors"), ours) <= 1
    assert difference(ours, plain) > 2


@pytest.mark.parametrize(("unet", "text"), [(0.5, 1.0), (1.0, 0.3), (0.4, 1.5)])
def test_split_scales_are_those_of_diffusers(
    tiny_base: Path, family: Family, tmp_path: Path, unet: float, text: float
) -> None:
    adapter_of(invented(family.stages[0], LoraSettings(rank=4, alpha=8), size=0.3), family).write(
        tmp_path / "a.safetensors"
    )
    generator = Generator(loaded(tiny_base), Adapter.read(tmp_path / "a.safetensors"))
    ours = generated(generator, KNOBS.model_copy(update={"unet_scale": unet, "text_scale": text}))
    expected = theirs(tiny_base, tmp_path / "a.safetensors", scales={"unet": unet, "text_encoder": text})
    assert difference(ours, expected) <= 1
    assert difference(ours, generated(generator)) > 1
    assert difference(ours, generated(generator, KNOBS.model_copy(update={"unet_scale": text, "text_scale": unet}))) > 1


def equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[bool, bool]:
    """Tell whether the outputs of text encoder, and of denoiser, are equal to the bit."""
    return torch.equal(one[0], other[0]), torch.equal(one[1], other[1])


def test_scale_0_of_a_part_is_that_part_without_it_and_scales_can_be_reset(tiny_base: Path, stage: Stage) -> None:
    plain = predictions(stage)
    tensors, metadata = invented(stage, LoraSettings(rank=4)).export()
    full = predictions(stage)
    assert equal(plain, full) == (False, False)
    other = loaded(tiny_base).stages[0]
    applied = restore(other, tensors, metadata)
    assert equal(predictions(other), full) == (True, True)
    applied.scale({"unet": 0.0, "text_encoder": 0.0})
    assert equal(predictions(other), plain) == (True, True)
    applied.scale({"unet": 0.0, "text_encoder": 1.0})
    assert equal(predictions(other), full) == (True, False)
    applied.scale({"unet": 1.0, "text_encoder": 0.0})
    assert equal(predictions(other), plain) == (True, False)
    applied.scale({"unet": 0.5, "text_encoder": 0.5})
    assert equal(predictions(other), full) == (False, False)
    applied.scale({"unet": 1.0, "text_encoder": 1.0})
    assert equal(predictions(other), full) == (True, True)
    for part in other.parts.values():
        for _, layer in lora_layers(part):
            layer.lora_B["default"].weight.data.fill_(float("inf"))
    applied.scale({"unet": 0.0, "text_encoder": 0.0})
    assert equal(predictions(other), plain) == (True, True)  # not multiplied by 0, but disabled


def test_detaching_and_removing_restore_every_bit_of_the_base_and_can_be_repeated(stage: Stage) -> None:
    plain, before = predictions(stage), weights(stage)
    names = [name for part in stage.parts.values() for name, _ in part.named_modules()]
    for layers in ("all", "attention"):
        attached = invented(stage, LoraSettings(rank=4, layers=layers))
        tensors, metadata = attached.export()
        attached.detach()
        applied = restore(stage, tensors, metadata)
        applied.scale({"unet": 0.5, "text_encoder": 0.0})
        assert equal(predictions(stage), plain) == (True, False)
        applied.remove()
        assert equal(predictions(stage), plain) == (True, True)
        assert weights(stage) == before
        assert [name for part in stage.parts.values() for name, _ in part.named_modules()] == names


def unfit(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor], str]]:
    """Make files that do not fit, each with a key that the error message must name."""
    down = next(key for key in tensors if key.startswith("unet.") and ".to_k.lora_A." in key)
    wide = torch.cat([tensors[down], tensors[down]], dim=1)
    yield "another width", {**tensors, down: wide}, down.removeprefix("unet.")
    yield (
        "half a pair",
        {key: tensor for key, tensor in tensors.items() if key != down},
        down.removeprefix("unet.").replace("_A", "_B"),
    )
    yield "a flat tensor", {**tensors, down: tensors[down].flatten()}, down.removeprefix("unet.")
    yield "a part that is not there", {**tensors, "transformer.x.lora_A.weight": torch.ones(4, 4)}, "transformer.x"
    yield "a second text encoder", {**tensors, "text_encoder_2.x.lora_A.weight": torch.ones(4, 4)}, "text_encoder_2.x"
    missing = {f"unet.down_blocks.9.to_k.lora_{half}.weight": torch.ones(4, 4) for half in "AB"}
    yield "a layer that is not there", tensors | missing, "down_blocks.9.to_k"
    norm = {
        "unet.conv_norm_out.lora_A.weight": torch.ones(4, 16),
        "unet.conv_norm_out.lora_B.weight": torch.ones(16, 4),
    }
    yield "a layer that cannot be adapted", tensors | norm, "conv_norm_out"
    kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    halves = {
        f"{kohya}.lora_down.weight": torch.ones(4, 16),
        f"{kohya}.lora_up.weight": torch.ones(16, 4),
        f"{kohya}.alpha": torch.tensor(4.0),
    }
    yield "kohya's names", halves, kohya
    yield "nothing in it", {}, "adapter"


UNFIT = (
    "another width",
    "half a pair",
    "a flat tensor",
    "a part that is not there",
    "a second text encoder",
    "a layer that is not there",
    "a layer that cannot be adapted",
    "kohya's names",
    "nothing in it",
)


@pytest.mark.parametrize("name", UNFIT)
def test_a_file_that_does_not_fit_is_refused_by_its_keys_and_leaves_the_base_alone(
    tiny_base: Path, stage: Stage, name: str
) -> None:
    tensors, metadata = LoraSettings(rank=4).attach(loaded(tiny_base).stages[0], SUBJECT, 0, None).export()
    cases = {case: (changed, key) for case, changed, key in unfit(tensors)}
    assert set(cases) == set(UNFIT)
    plain, before = predictions(stage), weights(stage)
    changed, key = cases[name]
    with pytest.raises(UserError) as error:
        restore(stage, changed, metadata)
    assert key in str(error.value)
    assert "\n" not in str(error.value)
    assert not any(lora_layers(part) for part in stage.parts.values())
    assert weights(stage) == before
    assert equal(predictions(stage), plain) == (True, True)


def test_damaged_metadata_is_refused(stage: Stage, tiny_base: Path) -> None:
    tensors, _ = LoraSettings(rank=4).attach(loaded(tiny_base).stages[0], SUBJECT, 0, None).export()
    for text in ("{", "[]", '{"unet.lora_alpha": "x"}'):
        with pytest.raises(UserError):
            restore(stage, tensors, {METADATA_KEY: text})
        assert not any(lora_layers(part) for part in stage.parts.values())


def test_tensors_have_the_names_that_other_tools_look_for(stage: Stage) -> None:
    tensors, _ = LoraSettings(rank=4).attach(stage, SUBJECT, 0, None).export()
    for half in "AB":
        assert f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_{half}.weight" in tensors
        assert f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_{half}.weight" in tensors
        assert f"text_encoder.text_model.encoder.layers.1.self_attn.out_proj.lora_{half}.weight" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_the_metadata_gives_other_tools_rank_and_alpha(stage: Stage) -> None:
    _, metadata = LoraSettings(rank=8, alpha=2).attach(stage, SUBJECT, 0, None).export()
    facts = json.loads(metadata[METADATA_KEY])
    for part in ("unet", "text_encoder"):
        assert (facts[f"{part}.r"], facts[f"{part}.lora_alpha"]) == (8, 2)


def test_an_adapter_of_ours_is_refused_on_another_base(family: Family, tmp_path: Path) -> None:
    from tiny.stable_diffusion import tiny_stable_diffusion

    adapter = adapter_of(invented(family.stages[0], LoraSettings(rank=4)), family)
    with pytest.raises(UserError, match="give --base tiny"):
        Generator(loaded(tiny_stable_diffusion(tmp_path, seed=1)), adapter)


VARIANTS = ("lora", "rslora", "dora", "loha", "lokr")


def pushed(stage: Stage, attached: AttachedMethod) -> None:
    """Change the trained parameters, as if they had been trained."""
    del stage
    with torch.no_grad():
        for group in attached.groups:
            for number, parameter in enumerate(group.parameters):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded("push", group.part, number)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", ["attention", "all"])
def test_each_variant_starts_at_the_base_is_trained_and_restores(
    tiny_base: Path, variant: Any, layers: Any, tmp_path: Path
) -> None:
    """A new one is the base, to rounding as DoRA divides by a norm; its file restores it."""
    stage = loaded(tiny_base).stages[0]
    before = predictions(stage)
    attached = LoraSettings(variant=variant, layers=layers, rank=3, alpha=5, text_learning_rate=1e-3).attach(
        stage, SUBJECT, 0, None
    )
    for was, now in zip(before, predictions(stage), strict=True):
        torch.testing.assert_close(now, was, atol=2e-5, rtol=1e-5)
    pushed(stage, attached)
    trained = predictions(stage)
    assert (trained[1] - before[1]).abs().max() > 1e-3
    tensors, metadata = attached.export()
    Adapter(tensors=tensors, metadata=metadata, manifest=None).write(tmp_path / "adapter.safetensors")
    attached.detach()
    read, restored = Adapter.read(tmp_path / "adapter.safetensors"), list[tuple[Tensor, Tensor]]()
    for _ in range(2):
        fresh = loaded(tiny_base).stages[0]
        applied = restore(fresh, read.tensors, read.metadata)
        restored.append(predictions(fresh))
        applied.scale(dict.fromkeys(fresh.parts, 0.0))
        assert all(torch.equal(now, was) for was, now in zip(before, predictions(fresh), strict=True)), (
            "strength 0 is the base"
        )
        applied.remove()
        assert all(torch.equal(now, was) for was, now in zip(before, predictions(fresh), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*restored, strict=True))
    for one, other in zip(restored[0], trained, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_decided_by_its_seed_and_leaves_the_global_generator_alone(
    tiny_base: Path, variant: Any
) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (
        LoraSettings(variant=variant, text_learning_rate=1e-3)
        .attach(loaded(tiny_base).stages[0], SUBJECT, seed, None)
        .export()[0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("variant", ["dora", "loha", "lokr"])
def test_a_variant_that_does_not_fit_is_refused_and_leaves_the_base_alone(tiny_base: Path, variant: Any) -> None:
    """A missing tensor and one of another shape are named; the base has no adapted layer left."""
    tensors, metadata = (
        LoraSettings(variant=variant, text_learning_rate=1e-3)
        .attach(loaded(tiny_base).stages[0], SUBJECT, 0, None)
        .export()
    )
    first = next(key for key in tensors if "lora_A" not in key and "lora_B" not in key)
    for broken in ({key: t for key, t in tensors.items() if key != first}, tensors | {first: torch.zeros(2, 2)}):
        stage = loaded(tiny_base).stages[0]
        with pytest.raises(UserError, match="does not fit the base"):
            restore(stage, broken, metadata)
        assert not any(lora_layers(part) for part in stage.parts.values())


def test_a_dora_is_read_by_diffusers(tiny_base: Path, family: Family, tmp_path: Path) -> None:
    stage = family.stages[0]
    attached = LoraSettings(variant="dora", rank=4, alpha=6, layers="all", text_learning_rate=0).attach(
        stage, SUBJECT, 0, None
    )
    pushed(stage, attached)
    tensors, metadata = attached.export()
    attached.detach()
    Adapter(tensors=tensors, metadata=metadata, manifest=None).write(tmp_path / "adapter.safetensors")
    applied = restore(stage, tensors, metadata)
    with torch.no_grad():
        ours = predictions(stage)
    applied.remove()
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path / "adapter.safetensors")
    with torch.no_grad():
        ids = pipeline.tokenizer([REQUEST.prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = pipeline.text_encoder(ids).last_hidden_state
        prediction = pipeline.unet(
            gaussian((4, 8, 8), [seeded("question")]), torch.tensor([500]), encoder_hidden_states=states
        ).sample
    torch.testing.assert_close(states, ours[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(prediction, ours[1], atol=5e-5, rtol=1e-4)
