"""Laws of several adapters in one image: sums, scales, order, removal, and diffusers' image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from torch import Tensor

from mascot.adapters.adapter_file import Adapter, Manifest, SubjectRecord, join_stages
from mascot.api.generate import generate
from mascot.cli.app import main
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_stack_generator
from mascot.generation.stack.applied_stack import apply_stack
from mascot.generation.stack.stack_checks import check_stack, report_shared_tokens
from mascot.generation.stack.stacked_adapter import StackedAdapter
from mascot.generation.stack.subject_names import fill_prompts
from mascot.methods.dreambooth import DreamBoothSettings
from mascot.methods.lora import LoraSettings
from mascot.methods.pivotal import PivotalSettings
from mascot.methods.textual_inversion import TextualInversionSettings
from mascot.models.families.registry import load_family
from mascot.progress import Event, TokenShared
from mascot.protocols import Family, Stage, Subject
from tiny.families import pipeline_options
from tiny.families import tiny_base as make_base

# diffusers' schedulers turn tensors into arrays in a way that numpy 2 finds old.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

STEPS, GUIDANCE, PROMPT = 2, 3.0, "a photo of a sks dog"
KNOBS = Knobs(steps=STEPS, guidance=GUIDANCE, height=64, width=64)


def disturbed(stage: Stage, kind: str, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An adapter of a kind, as if it had been trained: every tensor of it is changed."""
    subject = Subject("sks", "dog")
    if kind == "dreambooth":
        attached = DreamBoothSettings(text_learning_rate=1e-3 if len(stage.parts) > 1 else 0).attach(
            stage, subject, 0, None
        )
    elif kind == "textual-inversion":
        attached = TextualInversionSettings(vectors=2).attach(stage, subject, 0, None)
    elif kind == "pivotal":
        settings = PivotalSettings(layers=lora_settings(stage, "lora"))
        first = settings.token.attach(stage, subject, 0, None)
        attached = settings.phases[1].phase.attach(stage, subject, 0, first)
    else:
        attached = lora_settings(stage, kind).attach(stage, subject, seed, None)
    with torch.no_grad():
        for number, parameter in enumerate(p for group in attached.groups for p in group.parameters):
            share = 0.002 if kind == "dreambooth" else 0.05
            parameter.add_(share * gaussian(tuple(parameter.shape), [seeded(kind, seed, number)])[0])
    exported = attached.export()
    attached.detach()
    return exported


def lora_settings(stage: Stage, variant: str) -> LoraSettings:
    """Settings with an alpha that is not the rank, for convolutions too."""
    rate = 1e-4 if len(stage.parts) > 1 else 0
    return LoraSettings.model_validate(
        {"variant": variant, "rank": 2, "alpha": 3, "layers": "all", "text_learning_rate": rate}
    )


def stacked(stage: Stage, kind: str, seed: int, scale: float) -> StackedAdapter:
    """An adapter of our own methods, without a manifest but for the method."""
    tensors, metadata = disturbed(stage, kind, seed)
    return StackedAdapter(
        adapter=Adapter(tensors=tensors, metadata=metadata, manifest=None if kind == "lora" else manifest(kind)),
        path=Path(f"{kind}{seed}"),
        name=f"{kind}{seed}",
        place=f"{kind}{seed}",
        unet_scale=scale,
        text_scale=scale / 2,
    )


def manifest(kind: str, **changes: Any) -> Manifest:
    """A manifest of a method, on the base whose identity is `base`."""
    method = kind if kind in {"dreambooth", "textual-inversion", "pivotal"} else "lora"
    facts: dict[str, Any] = {
        "method": method,
        "base": "somewhere",
        "base_identity": "base",
        "token": "sks",
        "class_noun": "dog",
        "resolution": 64,
        "step": 1,
        "recipe": {},
    }
    return Manifest(**facts | changes)


class Renamed:
    """A family whose identity is that of `manifest`."""

    identity, name = "base", "tiny"

    def __init__(self, family: Family) -> None:
        self.stages = family.stages


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return Renamed(load_family(str(tiny_base), device="cpu", precision="fp32"))


def image_of(generator: Generator) -> np.ndarray:
    """One image, as whole numbers."""
    return np.asarray(next(iter(generator.generate([ImageRequest(PROMPT, 5)], KNOBS)))).astype(int)


def state(stage: Stage) -> dict[str, tuple[int, bytes]]:
    """Every parameter of a stage: that it is the same object, and its bytes."""
    return {
        f"{part}.{name}": (id(value), value.detach().numpy().tobytes())
        for part, module in stage.parts.items()
        for name, value in module.named_parameters()
    }


MIXES = (
    ("lora", "lora"),
    ("lora", "rslora", "loha", "lokr"),
    ("lora", "loha", "loha", "rslora"),
    ("loha", "lora", "dreambooth"),
    ("dreambooth", "dreambooth", "lokr"),
    ("textual-inversion", "lora", "dreambooth"),
    ("pivotal", "loha", "lora"),
    ("lokr", "dora", "loha"),
)
QUICK = (("loha", "lora", "dreambooth"),)


@pytest.mark.parametrize(
    "kinds",
    [pytest.param(kinds, marks=[pytest.mark.slow] * (kinds not in QUICK), id=" ".join(kinds)) for kinds in MIXES],
)
def test_order_decides_only_rounding_and_removal_restores_the_base(kinds: Sequence[str], family: Family) -> None:
    [stage] = family.stages
    base = image_of(Generator(family))
    before = state(stage)
    members = [stacked(stage, kind, seed, 0.8 - seed / 5) for seed, kind in enumerate(kinds)]
    assert state(stage) == before
    images: list[np.ndarray] = []
    for turn in range(3):
        order = [members, members[::-1], members[1:] + members[:1]][turn]
        generator = Generator(family, order)
        images.append(image_of(generator))
        generator.applied.scale(0, 0)
        zero = KNOBS.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})
        off = np.asarray(next(iter(generator.generate([ImageRequest(PROMPT, 5)], zero))))
        assert (off == base).all(), "at scale 0 the base generates, to the byte"
        for index in sorted(range(len(members)), key=lambda index: (index + turn) % len(members)):
            for applied in generator.applied.adapters[index][1]:
                assert applied is not None
                applied.remove()
        assert state(stage) == before
    assert (image_of(Generator(family)) == base).all()
    assert max(int(np.abs(images[0] - other).max()) for other in images) <= 1
    assert int(np.abs(images[0] - base).max()) > 3


@pytest.mark.parametrize(
    "kinds", [("lora", "loha"), ("dreambooth", "lora"), ("lokr", "lora"), ("dreambooth", "dreambooth")], ids=" ".join
)
def test_weight_changes_add_up_in_every_layer(kinds: Sequence[str], family: Family) -> None:
    [stage] = family.stages
    module = stage.parts["unet"]
    name = next(name for name in stage.adaptable("unet", "all") if name.endswith("to_q"))
    x_BD = gaussian((3, module.get_submodule(name).in_features), [seeded("x")])[0]

    def output(members: Sequence[StackedAdapter]) -> Tensor:
        applied = apply_stack(members, family)
        applied.scale(1, 1)
        with torch.no_grad():
            result = module.get_submodule(name)(x_BD)
        applied.remove()
        return result

    members = [stacked(stage, kind, seed, 0.9 - seed / 2) for seed, kind in enumerate(kinds)]
    base = output([])
    changes = [output([one]) - base for one in members]
    assert all(change.abs().max() > 1e-4 for change in changes)
    torch.testing.assert_close(output(members), base + sum(changes), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_every_stage_of_a_cascade_has_its_share_of_several_adapters(tmp_path: Path) -> None:
    """One adapter of both stages, one of the second alone; each can be removed first."""
    cascade = load_family(str(make_base("deepfloyd_if_cascade", tmp_path)), device="cpu", precision="fp32")
    first, second = cascade.stages
    before = [state(stage) for stage in cascade.stages]
    tensors, metadata = join_stages([disturbed(first, "lora", 0), disturbed(second, "lora", 1)])
    whole = StackedAdapter(adapter=Adapter(tensors=tensors, metadata=metadata, manifest=None), name="whole")
    tensors, metadata = join_stages([({}, {}), disturbed(second, "loha", 2)])
    later = StackedAdapter(adapter=Adapter(tensors=tensors, metadata=metadata, manifest=None), name="later")
    assert [state(stage) for stage in cascade.stages] == before
    images: list[np.ndarray] = []
    for order in ([whole, later], [later, whole]):
        generator = Generator(cascade, order)
        images.append(np.asarray(next(iter(generator.generate([ImageRequest(PROMPT, 5)], CASCADE_KNOBS)))).astype(int))
        generator.remove_adapter()
        assert [state(stage) for stage in cascade.stages] == before
    [alone] = Generator(cascade, [whole]).generate([ImageRequest(PROMPT, 5)], CASCADE_KNOBS)
    assert np.abs(images[0] - images[1]).max() <= 1
    assert np.abs(images[0] - np.asarray(alone).astype(int)).max() > 1


CASCADE_KNOBS = KNOBS.model_copy(update={"height": None, "width": None})


def test_an_adapter_that_does_not_fit_leaves_the_base(family: Family) -> None:
    [stage] = family.stages
    before = state(stage)
    good = stacked(stage, "lora", 0, 1.0)
    wrong = {key.replace("to_q", "to_x"): value for key, value in good.adapter.tensors.items()}
    bad = StackedAdapter(
        adapter=Adapter(tensors=wrong, metadata={}, manifest=None), name="bad", place="bad.safetensors"
    )
    with pytest.raises(UserError, match=r"bad\.safetensors: this adapter does not fit the base"):
        Generator(family, [good, bad])
    assert state(stage) == before


FAMILIES = [
    pytest.param("sd", "dora"),
    pytest.param("sdxl", "lora", marks=pytest.mark.slow),
    pytest.param("sd3", "rslora", marks=pytest.mark.slow),
    pytest.param("flux", "lora", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "variant"), FAMILIES)
def test_the_command_generates_what_set_adapters_does(
    name: str, variant: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of denoiser and text encoders apart; a DoRA multiplies what is before it."""
    folder = tiny_base if name == "sd" else make_base(name, tmp_path / "base")
    family = load_family(str(folder), device="cpu", precision="fp32")
    stage = family.stages[0]
    files: list[Path] = []
    for number, kind in enumerate(("lora", variant)):
        tensors, metadata = disturbed(stage, kind, number)
        if kind == "dora":  # diffusers misreads a DoRA of a text encoder
            tensors = {key: value for key, value in tensors.items() if key.startswith(stage.denoiser)}
        files.append(tmp_path / f"{number}.safetensors")
        Adapter(tensors=tensors, metadata=metadata, manifest=None).write(files[-1])
    words = [f"{files[0]}:0.8:0.3", f"{files[1]}:0.5" if variant == "dora" else f"{files[1]}:0.5:0.9", PROMPT]
    ours = command(monkeypatch, tmp_path, *words, "--base", folder, "--seed", 5, *SMALL)
    scales = [{stage.denoiser: 0.8, "text_encoder": 0.3, "text_encoder_2": 0.3}, {stage.denoiser: 0.5}]
    if variant != "dora":
        scales[1] |= {"text_encoder": 0.9, "text_encoder_2": 0.9}
    difference = np.abs(ours - theirs(name, folder, family, files, scales))
    assert difference.max() <= 1.01
    alone = command(monkeypatch, tmp_path, words[0], PROMPT, "--base", folder, "--seed", 5, *SMALL)
    assert np.abs(ours - alone).max() > 1.01, "the second adapter changes the image"


SMALL = ("--count", 1, "--steps", STEPS, "--guidance", GUIDANCE, "--size", "64x64")


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: object) -> np.ndarray:
    """Generate one image by the command."""
    out = folder / f"images{len(list(folder.glob('images*')))}"
    monkeypatch.setattr(sys, "argv", ["mascot", "generate", *map(str, words), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    [path] = out.iterdir()
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def theirs(
    name: str, folder: Path, family: Family, files: Sequence[Path], scales: Sequence[dict[str, float]]
) -> np.ndarray:
    """The same image by diffusers' own pipeline with several adapters."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    if name in {"sd", "sdxl"}:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    for number, file in enumerate(files):
        pipeline.load_lora_weights(file, adapter_name=f"a{number}")
    known = {part for part in ("unet", "transformer", "text_encoder", "text_encoder_2") if hasattr(pipeline, part)}
    known -= {"text_encoder_2"} if name == "flux" else set[str]()
    weights = [{part: scale for part, scale in one.items() if part in known} for one in scales]
    pipeline.set_adapters([f"a{number}" for number in range(len(files))], weights)
    noise = gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)])
    options = pipeline_options(name, noise, steps=STEPS, guidance=GUIDANCE)
    return np.asarray(pipeline(PROMPT, **options).images[0], np.float64) * 255


def named(name: str, word: str = "sks", **changes: Any) -> StackedAdapter:
    """An adapter with a manifest, whose token is `word`, and without tensors."""
    empty = Adapter(
        tensors={}, metadata=changes.pop("metadata", {}), manifest=manifest("lora", **changes | {"token": word})
    )
    return StackedAdapter(adapter=empty, path=Path(name), name=name, place=f"runs/{name}")


OTHER = StackedAdapter(
    adapter=Adapter(tensors={}, metadata={}, manifest=None), path=Path("ink"), name="ink", place="ink.safetensors"
)
PETS = {
    "subjects": (
        SubjectRecord.model_validate({"name": "rex", "token": "sks", "class_noun": "dog"}),
        SubjectRecord.model_validate({"name": "tom", "token": "zwx", "class_noun": "cat"}),
    )
}


def test_each_subject_is_called_by_its_own_name() -> None:
    owl, pets = named("owl", "bluf", class_noun="owl"), named("pets", **PETS)
    assert fill_prompts(["a {owl} and a {rex} and {tom}"], [owl, pets]) == ["a bluf owl and a sks dog and zwx cat"]
    assert fill_prompts(["a {subject}", "an {owl}"], [owl, OTHER]) == ["a bluf owl", "a bluf owl"]
    assert fill_prompts(["a {subject}"], [OTHER, pets]) == ["a sks dog", "a zwx cat"]
    called = StackedAdapter(adapter=pets.adapter, name="mine", named=True)
    assert fill_prompts(["a {mine.tom}"], [owl, called]) == ["a zwx cat"]
    assert fill_prompts(["a {owl}"], [owl]) == ["a bluf owl"]
    for prompt, says in {
        "a {subject}": r"\{subject\} in 'a \{subject\}' can mean several adapters; write \{owl\} or \{rex\} or \{tom\}",
        "a {class}": r"\{class\} in",
        "a {robin}": "unknown placeholder",
    }.items():
        with pytest.raises(UserError, match=says):
            fill_prompts([prompt], [owl, pets])
    with pytest.raises(UserError, match=r"ink does not name its subject; .* instead of \{ink\}"):
        fill_prompts(["an {owl} in {ink}"], [owl, OTHER])
    with pytest.raises(UserError, match=r"this adapter does not name its subject; .* instead of \{subject\}"):
        fill_prompts(["a {subject}"], [OTHER])


TRAINED = {"textual_inversion": '{"token": "Bluf", "vectors": 1, "initial": {"text_encoder": "owl"}}'}


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (named("owl"), named("owl"), "runs/owl is given twice; give it once, with the sum"),
        (named("pets", **PETS), named("rex", "zwx"), "are both called rex in prompts; name one of them, such as"),
        (named("owl"), named("cat", base="elsewhere", base_identity="x"), "cat on elsewhere .* leave out one of them"),
        (named("owl", metadata=TRAINED), named("cat", metadata=TRAINED), "has trained the word 'bluf', and runs/cat"),
        (named("owl", metadata=TRAINED), named("cat", "bluf"), "runs/cat has a meaning of its own for it"),
        (named("cat", class_noun="great bluf"), named("owl", metadata=TRAINED), "runs/owl has trained the word"),
    ],
)
def test_adapters_that_cannot_be_together_are_refused_by_name(
    one: StackedAdapter, other: StackedAdapter, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        check_stack([one, OTHER, other])


def test_adapters_that_read_their_base_in_other_ways_are_refused() -> None:
    one, other = named("owl"), named("cat", "zwx", recipe={"clip_skip": 2})
    with pytest.raises(UserError, match=r"runs/owl and runs/cat .* settings of their base \(clip_skip\)"):
        open_stack_generator([one, OTHER, other])
    with pytest.raises(UserError, match="does not say which base it is for; give --base"):
        open_stack_generator([OTHER])


def test_a_token_of_two_adapters_is_told() -> None:
    events: list[Event] = []
    report_shared_tokens([named("owl"), named("cat"), named("dog", "zwx"), OTHER], events.append)
    [event] = events
    assert isinstance(event, TokenShared)
    assert event.message.startswith("owl and cat were both trained with the token sks")


def test_the_command_and_the_verb_name_and_scale_every_adapter(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scales behind a path count, else those that training recommends; the largest size counts."""
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    facts = {"base": str(tiny_base), "base_identity": family.identity, "knobs": {"steps": 2, "unet_scale": 0.6}}
    for number, (name, word) in enumerate((("owl", "bluf"), ("cat", "zwx"))):
        tensors, metadata = disturbed(family.stages[0], "lora", number)
        own = manifest("lora", **facts, token=word, class_noun=name, resolution=64 - 32 * number)
        Adapter(tensors=tensors, metadata=metadata, manifest=own).write(tmp_path / f"{name}.safetensors")
    owl, cat = tmp_path / "owl.safetensors", tmp_path / "cat.safetensors"
    prompt = "an {owl} and a {cat}"
    sheet = command(monkeypatch, tmp_path, owl, f"{cat}:0.5:0", prompt, "--count", 1)
    [path] = (tmp_path / "images0").iterdir()
    with Image.open(path) as image:
        assert image.info["parameters"] == (
            "a bluf owl and a zwx cat\nSteps: 2, Sampler: ddim, CFG scale: 7.5, Seed: 0, Size: 64x64, "
            f"Model: {tiny_base}, Adapter: owl.safetensors, UNet scale: 0.6, Text encoder scale: 1.0, "
            "Adapter 2: cat.safetensors, UNet scale 2: 0.5, Text encoder scale 2: 0.0"
        )
    [again] = generate([owl, f"{cat}:0.5:0"], [prompt], count=1)
    assert (np.asarray(again.convert("RGB")) == sheet).all()
    for option in ("--unet-scale", "--text-scale"):
        monkeypatch.setattr(sys, "argv", ["mascot", "generate", str(owl), str(cat), "a dog", option, "1"])
        with pytest.raises(SystemExit):
            main()
        assert f"{option} is for one adapter, and 2 are given; write a scale behind each" in capsys.readouterr().err
    with pytest.raises(UserError, match="unet_scale is for one adapter"):
        generate([owl, cat], ["a dog"], Knobs(unet_scale=0.3))
    with pytest.raises(UserError, match="no adapter is given"):
        generate([], ["a dog"])
