"""Laws of DreamBooth: all that is trained is exported, and the base model is restored exactly.

Every tool reads the extracted LoRA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.adapters.lora_keys import METADATA_KEY
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods import lora
from mascot.methods.dreambooth import COMPANION, DreamBoothSettings, DreamBoothTraining, restore
from mascot.models.families.registry import load_family
from mascot.protocols import AttachedMethod, Companion, Family, Framing, Stage, Subject
from tiny.families import MAKERS, tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion

SUBJECT = Subject("sks", "dog")
PROMPT = "a photo of a sks dog in the snow"
FRAMING = Framing(original=(64, 64), target=(64, 64))
NAMES = ["sd", *MAKERS]
FULL = 64
"""A rank that no layer of a tiny base exceeds."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a base of each family once; call it with the family's name."""
    home, made = tmp_path_factory.mktemp("bases"), dict[str, Path]()

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_stable_diffusion(home / name) if name == "sd" else tiny_base(name, home / name)
        return made[name]

    return folder


@pytest.fixture(params=NAMES)
def base(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Path:
    """A base of each family in turn."""
    return folders(request.param)


@pytest.fixture
def plain(folders: Callable[[str], Path]) -> Path:
    """The base of one family, for laws about tensors alone."""
    return folders("sd")


def loaded(base: Path, precision: Any = "fp32") -> Family:
    return load_family(str(base), device="cpu", precision=precision)


def settings_for(stage: Stage, **options: Any) -> DreamBoothSettings:
    """Train the text encoders too, where one can be trained."""
    return DreamBoothSettings(learning_rate=1e-2, text_learning_rate=1e-2 if len(stage.parts) > 1 else 0, **options)


def pushed(
    stage: Stage,
    settings: DreamBoothSettings | None = None,
    *,
    only: Callable[[str], bool] = lambda _: True,
    size: float = 0.05,
) -> AttachedMethod:
    """Attach the method and change its weights visibly, those whose names `only` accepts."""
    attached = (settings or settings_for(stage)).attach(stage, SUBJECT, 0, None)
    with torch.no_grad():
        for group in attached.groups:
            for name, parameter in stage.parts[group.part].named_parameters():
                if only(f"{group.part}.{name}"):
                    parameter.add_(size * torch.randn(parameter.shape, generator=seeded("push", group.part, name)))
    return attached


def reachable(stage: Stage) -> Callable[[str], bool]:
    """Make a predicate for the weights that the extracted LoRA can change."""
    text = tuple(
        f"{part}.{name}.weight"
        for part in stage.parts
        if part != stage.denoiser
        for name in stage.adaptable(part, "all")
    )
    linear = {
        f"{n}.weight"
        for n, layer in stage.parts[stage.denoiser].named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    return lambda name: name in text or name.removeprefix(f"{stage.denoiser}.") in linear


def prediction(stage: Stage) -> Tensor:
    """Predict once, through text encoders and denoiser."""
    with torch.no_grad():
        noisy = gaussian(stage.latent_shape(64, 64), [seeded("question")])
        return stage.predict(noisy, torch.tensor([500.0]), stage.condition([PROMPT], [FRAMING]))


def generated(family: Family) -> np.ndarray:
    """Generate one image, H x W x 3."""
    knobs = Knobs(steps=2, guidance=1.0, height=64, width=64)
    return np.asarray(next(iter(Generator(family).generate([ImageRequest(PROMPT, 5)], knobs))), np.float64)


def optimizer_of(attached: AttachedMethod) -> torch.optim.Optimizer:
    """Make AdamW over the trained parameters, each part at its learning rate."""
    return torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": group.learning_rate} for group in attached.groups]
    )


def digests(stage: Stage) -> dict[str, str]:
    """Hash every weight and buffer of a stage's parts and autoencoder, with its dtype."""
    codec: Any = stage.image_codec  # pyright: ignore[reportAttributeAccessIssue]
    modules: dict[str, nn.Module] = {**stage.parts, **({"vae": codec.module} if hasattr(codec, "module") else {})}
    return {
        f"{part}.{name}": f"{tensor.dtype} {hashlib.sha256(tensor.float().numpy().tobytes()).hexdigest()}"
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def test_fresh_it_is_the_base(base: Path) -> None:
    """Its weights are equal to the bit, its prediction to rounding.

    A base's weights can lie at odd addresses, for which torch takes other kernels.
    """
    stage = loaded(base).stages[0]
    before, bits = prediction(stage), digests(stage)
    settings_for(stage).attach(stage, SUBJECT, 0, None)
    assert digests(stage) == bits
    torch.testing.assert_close(prediction(stage), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text_learning_rate", [0.0, 1e-3])
def test_only_what_is_exported_moves(plain: Path, text_learning_rate: float) -> None:
    """Three real steps change every exported tensor but the buffers, and nothing else."""
    stage = loaded(plain).stages[0]
    before = digests(stage)
    attached = DreamBoothSettings(learning_rate=1e-3, text_learning_rate=text_learning_rate).attach(
        stage, SUBJECT, 0, None
    )
    assert [group.part for group in attached.groups] == list(
        DreamBoothSettings(text_learning_rate=text_learning_rate).trains(stage)
    )
    optimizer = optimizer_of(attached)
    for number in range(3):
        noisy = gaussian(stage.latent_shape(64, 64), [seeded("photo", number)])
        stage.predict(noisy, torch.tensor([500]), stage.condition([PROMPT], [FRAMING])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after, exported = digests(stage), set(attached.export()[0])
    moved = {key for key in before if before[key] != after[key]}
    assert moved <= exported
    trained = {
        f"{group.part}.{name}" for group in attached.groups for name, _ in stage.parts[group.part].named_parameters()
    }
    assert moved == trained
    assert any(key.startswith("text_encoder.") for key in moved) == (text_learning_rate > 0)
    attached.detach()
    assert digests(stage) == before


def test_only_trained_parameters_require_gradients(base: Path) -> None:
    stage = loaded(base).stages[0]
    attached = DreamBoothSettings().attach(stage, SUBJECT, 0, None)
    trained = {id(parameter) for group in attached.groups for parameter in group.parameters}
    for module in stage.parts.values():
        assert all(parameter.requires_grad == (id(parameter) in trained) for parameter in module.parameters())
    attached.detach()
    assert not any(parameter.requires_grad for module in stage.parts.values() for parameter in module.parameters())


def test_exported_and_restored_generates_the_same_pixels_and_every_strength_is_exact(
    base: Path, tmp_path: Path
) -> None:
    family = loaded(base)
    before, bits = generated(family), digests(family.stages[0])
    attached = pushed(family.stages[0])
    image, trained, predicted = generated(family), digests(family.stages[0]), prediction(family.stages[0])
    assert np.abs(image - before).max() > 2
    tensors, metadata = attached.export()
    identity = {"base": str(base), "base_identity": family.identity, "token": "sks", "class_noun": "dog"}
    manifest = Manifest(method="dreambooth", resolution=64, step=0, recipe={}, **identity)
    Adapter(tensors=tensors, metadata=metadata, manifest=manifest).write(tmp_path / "a.safetensors")
    attached.detach()
    assert digests(family.stages[0]) == bits
    assert np.array_equal(generated(family), before)

    read, other = Adapter.read(tmp_path / "a.safetensors"), loaded(base)
    applied = restore(other.stages[0], read.tensors, read.metadata)
    assert torch.equal(prediction(other.stages[0]), predicted)
    assert np.array_equal(generated(other), image)
    assert digests(other.stages[0]) == trained
    applied.scale(dict.fromkeys(other.stages[0].parts, 0.5))
    assert digests(other.stages[0]) not in (trained, bits)
    assert not np.array_equal(generated(other), image)
    applied.scale(dict.fromkeys(other.stages[0].parts, 0.0))
    assert digests(other.stages[0]) == bits
    applied.scale({})
    assert digests(other.stages[0]) == trained
    applied.remove()
    assert digests(other.stages[0]) == bits
    assert np.array_equal(generated(other), before)


@pytest.mark.parametrize("strength", [0.25, 1.5])
def test_a_strength_is_a_step_from_the_base_towards_what_was_trained_part_by_part(plain: Path, strength: float) -> None:
    stage = loaded(plain).stages[0]
    base = {name: value.clone() for name, value in stage.parts["unet"].state_dict().items()}
    text = digests(stage)
    attached = pushed(stage)
    tensors, metadata = attached.export()
    attached.detach()
    applied = restore(stage, tensors, metadata)
    applied.scale({"unet": strength, "text_encoder": 0.0})
    for name, value in stage.parts["unet"].state_dict().items():
        torch.testing.assert_close(
            value, base[name] + strength * (tensors[f"unet.{name}"] - base[name]), atol=1e-6, rtol=1e-5
        )
    assert all(text[key] == now for key, now in digests(stage).items() if key.startswith("text_encoder."))


def test_base_only_predicts_with_the_bases_own_bits_and_training_goes_on_unchanged(plain: Path) -> None:
    """It may stand between forward and backward pass, with gradients kept, or end in an error."""
    stage = loaded(plain).stages[0]
    before, bits = prediction(stage), digests(stage)
    attached = pushed(stage)
    predicted, trained = prediction(stage), digests(stage)
    parameters = [parameter for group in attached.groups for parameter in group.parameters]
    gradients = list[list[Tensor]]()
    for peek in (False, True):
        for parameter in parameters:
            parameter.grad = None
        for _ in range(2):
            output = stage.predict(
                gaussian((4, 8, 8), [seeded("x")]), torch.tensor([500]), stage.condition([PROMPT], [FRAMING])
            )
            if peek:
                with attached.base_only():
                    assert torch.equal(prediction(stage), before)
                    assert digests(stage) == bits
            output.square().mean().backward()
        gradients.append([parameter.grad for parameter in parameters if parameter.grad is not None])
    assert len(gradients[0]) > 100
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    with pytest.raises(RuntimeError, match="halfway"), attached.base_only():
        raise RuntimeError("halfway")
    assert torch.equal(prediction(stage), predicted)
    assert digests(stage) == trained


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_weights_are_trained_in_full_precision_and_restored_exactly(plain: Path, precision: Any) -> None:
    stage = loaded(plain, precision).stages[0]
    before, bits = prediction(stage), digests(stage)
    attached = pushed(stage)
    assert {p.dtype for group in attached.groups for p in group.parameters} == {torch.float32}
    predicted, trained = prediction(stage), digests(stage)
    tensors, metadata = attached.export()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    with attached.base_only():
        assert torch.equal(prediction(stage), before)
    attached.detach()
    assert digests(stage) == bits
    applied = restore(stage, tensors, metadata)
    assert digests(stage) == trained
    assert torch.equal(prediction(stage), predicted)
    applied.scale(dict.fromkeys(stage.parts, 0.0))
    assert digests(stage) == bits
    assert torch.equal(prediction(stage), before)


def test_an_export_is_a_copy(plain: Path) -> None:
    """Later training does not change it."""
    stage = loaded(plain).stages[0]
    attached = pushed(stage)
    tensors, _ = attached.export()
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    with torch.no_grad():
        for group in attached.groups:
            for parameter in group.parameters:
                parameter.add_(1)
    assert all(torch.equal(tensors[key], kept[key]) for key in kept)


def test_an_export_is_each_parts_state_dict(base: Path) -> None:
    stage = loaded(base).stages[0]
    expected = {
        f"{part}.{name}": tensor.shape
        for part, module in stage.parts.items()
        for name, tensor in module.state_dict().items()
    }
    tensors, _ = settings_for(stage).attach(stage, SUBJECT, 0, None).export()
    assert {key: tensor.shape for key, tensor in tensors.items()} == expected


def test_learning_rates_and_their_end_are_the_parts_own(plain: Path) -> None:
    stage = loaded(plain).stages[0]
    attached = DreamBoothSettings(learning_rate=2e-6, text_learning_rate=1e-6, text_until=0.3).attach(
        stage, SUBJECT, 0, None
    )
    assert [(group.part, group.learning_rate, group.until) for group in attached.groups] == [
        ("unet", 2e-6, 1.0),
        ("text_encoder", 1e-6, 0.3),
    ]
    assert attached.changes_base
    assert [phase.share for phase in DreamBoothSettings().phases] == [1.0]
    assert attached.companions() == {}


def test_a_text_encoder_that_cannot_be_trained_is_refused(folders: Callable[[str], Path]) -> None:
    stage = loaded(folders("deepfloyd_if")).stages[0]
    bits = digests(stage)
    with pytest.raises(UserError, match=r"method\.text_learning_rate=0"):
        DreamBoothSettings(text_learning_rate=1e-6).attach(stage, SUBJECT, 0, None)
    assert digests(stage) == bits


def test_weights_of_few_bits_are_refused(plain: Path) -> None:
    """A quantized layer holds whole numbers, which an optimizer cannot change."""
    stage = loaded(plain).stages[0]
    layer = stage.parts["unet"].get_submodule("conv_in")
    layer.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="4 or 8 bits"):
        DreamBoothSettings().attach(stage, SUBJECT, 0, None)
    assert not any(parameter.requires_grad for parameter in stage.parts["unet"].parameters())


def unfit(tensors: Mapping[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], str]]:
    """Make files that do not fit, each with what the error message must contain."""
    first = next(iter(tensors))
    return {
        "nothing in it": ({}, "empty"),
        "a tensor is missing": ({key: value for key, value in tensors.items() if key != first}, first),
        "one of another shape": ({**tensors, first: torch.zeros(3)}, first),
        "a part that is not there": ({**tensors, "transformer.x": torch.zeros(3)}, "transformer.x"),
        "a layer that is not there": ({**tensors, "unet.x.weight": torch.zeros(3)}, "unet.x.weight"),
        "many of them": ({**tensors, **{f"y{i}.z": torch.zeros(1) for i in range(5)}}, "y0.z, y1.z, y2.z and 2 more"),
    }


@pytest.mark.parametrize("case", list(unfit({"unet.a": torch.zeros(1)})))
def test_weights_that_do_not_fit_are_refused_by_name_and_leave_the_base_alone(plain: Path, case: str) -> None:
    stage = loaded(plain).stages[0]
    attached = settings_for(stage).attach(stage, SUBJECT, 0, None)
    tensors, message = unfit(attached.export()[0])[case]
    attached.detach()
    bits = digests(stage)
    with pytest.raises(UserError) as error:
        restore(stage, tensors, {})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert digests(stage) == bits


def companion_of(stage: Stage, rank: int, size: float = 0.05) -> Companion:
    """Extract a LoRA from weights of which only reachable ones changed, and restore the base."""
    attached = pushed(stage, settings_for(stage, extract_rank=rank), only=reachable(stage), size=size)
    companion = attached.companions()[COMPANION]
    attached.detach()
    return companion


def test_the_extracted_lora_predicts_what_the_weights_predict_and_less_of_it_at_lower_ranks(base: Path) -> None:
    """Changes are so small that the prediction is linear in them; larger ones give a random one."""
    family, size = loaded(base), 2e-3
    stage = family.stages[0]
    before = prediction(stage)
    attached = pushed(stage, only=reachable(stage), size=size)
    trained, image = prediction(stage), generated(family)
    attached.detach()
    misses = [float((before - trained).norm())]
    for rank in (4, 16, FULL):
        companion = companion_of(stage, rank, size)
        applied = lora.restore(stage, companion.tensors, companion.metadata)
        misses.append(float((prediction(stage) - trained).norm()))
        if rank == FULL:
            assert np.abs(generated(family) - image).max() <= 1
        applied.remove()
        assert torch.equal(prediction(stage), before)
    assert misses == sorted(misses, reverse=True)
    assert misses[-1] < 1e-2 * misses[0] < 0.1 * misses[1]


def test_diffusers_reads_the_extracted_lora_as_we_do(base: Path, tmp_path: Path) -> None:
    family = loaded(base)
    stage: Any = family.stages[0]
    before = generated(family)
    companion = companion_of(stage, 3)
    assert companion.method == "lora"
    Adapter(tensors=companion.tensors, metadata=companion.metadata, manifest=None).write(tmp_path / "a.safetensors")
    read = Adapter.read(tmp_path / "a.safetensors")
    applied = lora.restore(stage, read.tensors, read.metadata)
    ours = generated(family)
    applied.remove()
    assert np.abs(ours - before).max() > 2
    pipeline: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path / "a.safetensors")
    for part in list(stage.parts):  # their modules in our generator: only the weights can differ
        if part == stage.denoiser:
            setattr(stage, part, getattr(pipeline, part))
        else:
            stage.loaded[part] = getattr(pipeline, part)
    assert np.abs(generated(family) - ours).max() <= 1


def test_the_extracted_lora_has_the_form_of_an_export_of_lora(plain: Path) -> None:
    """Names, dtypes and metadata are those of LoRA at that rank, over more layers."""
    companion = companion_of(loaded(plain).stages[0], 4)
    theirs, metadata = (
        lora.LoraSettings(rank=4, alpha=4, layers="all", text_learning_rate=1e-3)
        .attach(loaded(plain).stages[0], SUBJECT, 0, None)
        .export()
    )
    assert set(theirs) < set(companion.tensors)
    for key, tensor in theirs.items():
        assert (companion.tensors[key].shape, companion.tensors[key].dtype) == (tensor.shape, tensor.dtype)
    assert set(metadata) == set(companion.metadata) == {METADATA_KEY}
    ours, expected = (json.loads(facts[METADATA_KEY]) for facts in (companion.metadata, metadata))
    assert ours.keys() == expected.keys()
    assert {key for key in ours if ours[key] != expected[key]} <= {"unet.target_modules", "text_encoder.target_modules"}


def test_what_was_kept_is_reported_for_each_part_and_kind(base: Path) -> None:
    stage = loaded(base).stages[0]
    attached = pushed(stage, settings_for(stage, extract_rank=2))
    facts = attached.companions()[COMPANION].facts
    assert facts[0] == ("rank", "2")
    names = [name for name, _ in facts]
    assert len(set(names)) == len(names)
    for part in stage.parts:
        assert {f"{part}, all weights", f"{part}, attention", f"{part}, biases"} <= set(names)
    assert all(
        value.startswith("left out") for name, value in facts if name.endswith(("norms", "biases", "embeddings"))
    )


def test_an_accelerator_trains_the_weights_as_well(plain: Path) -> None:
    """Under autocast, the optimizer holds the parameters that the modules use."""
    stage = loaded(plain).stages[0]
    attached = DreamBoothSettings(learning_rate=1e-3).attach(stage, SUBJECT, 0, None)
    assert isinstance(attached, DreamBoothTraining)
    AcceleratorState._reset_state(reset_partial_state=True)  # another test's may have another precision
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    optimizer = accelerator.prepare(optimizer_of(attached))
    with accelerator.autocast():
        loss = (
            stage.predict(gaussian((4, 8, 8), [seeded("x")]), torch.tensor([500]), stage.condition([PROMPT], [FRAMING]))
            .square()
            .mean()
        )
    accelerator.backward(loss)
    before = prediction(stage)
    optimizer.step()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not torch.equal(prediction(stage), before)
