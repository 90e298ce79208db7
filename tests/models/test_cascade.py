"""Laws of bases of two stages: generated as by diffusers' two pipelines, trained stage by stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, IFPipeline, IFSuperResolutionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mascot.adapters.adapter_file import Adapter, Manifest, join_stages, split_stages
from mascot.diffusion.loss import training_loss
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings
from mascot.models.families.base_source import split_cascade
from mascot.models.families.deepfloyd_if import AUGMENTATION
from mascot.models.families.registry import describe, family_name, load_family
from mascot.protocols import AttachedMethod, Batch, Conditioning, Family, Framing, Latents
from tiny.families import tiny_base
from tiny.stable_diffusion import SIDE, SUBJECT, tiny_stable_diffusion

PROMPT = "a photo of a sks dog in the snow"
KNOBS = Knobs(steps=3, guidance=3.0, height=SIDE // 2, width=SIDE // 2)
REQUESTS = tuple(ImageRequest(prompt, seed) for seed, prompt in enumerate((PROMPT, "a cat", PROMPT)))
LORA = LoraSettings(rank=2, alpha=3, layers="all", text_learning_rate=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FIRST+SECOND."""
    return tiny_base("deepfloyd_if_cascade", tmp_path_factory.mktemp("cascade"))


@pytest.fixture
def family(base: Path) -> Family:
    """The base, loaded anew."""
    return load_family(str(base), device="cpu", precision="fp32")


def folders(base: Path) -> list[Path]:
    """The two folders of a base."""
    return [Path(part) for part in str(base).split("+")]


def pixels(image: Image.Image) -> np.ndarray:
    """H x W x 3."""
    return np.asarray(image, np.float64)


def generated(
    generator: Generator, requests: Sequence[ImageRequest] = REQUESTS[:1], knobs: Knobs = KNOBS
) -> list[np.ndarray]:
    """Images by our generator, as arrays."""
    return [pixels(image) for image in generator.generate(requests, knobs)]


def opened(kind: Any, folder: Path, **options: Any) -> Any:
    """A pipeline of diffusers that adds no noise between its steps, as ours does."""
    pipeline = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler.register_to_config(variance_type="fixed_small")
    return pipeline


def theirs(base: Path, seed: int, knobs: Knobs) -> np.ndarray:
    """The image by diffusers' two pipelines, one after the other, from the same noise."""
    first, second = folders(base)
    height, width = knobs.height or 2 * SIDE, knobs.width or 2 * SIDE
    options: dict[str, Any] = {"num_inference_steps": knobs.steps, "guidance_scale": knobs.guidance}
    small, large = opened(IFPipeline, first), opened(IFSuperResolutionPipeline, second)
    embeds = small.encode_prompt(PROMPT, do_classifier_free_guidance=True, negative_prompt="", clean_caption=False)
    options |= {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    image = small(
        height=height // 2, width=width // 2, generator=seeded("picture", seed), output_type="pt", **options
    ).images
    result = large(
        image=image,
        height=height,
        width=width,
        generator=seeded("picture", seed, 1),
        output_type="np",
        noise_level=AUGMENTATION,
        **options,
    )
    return np.asarray(result.images[0], np.float64) * 255


@pytest.mark.parametrize(
    "changes",
    [{}, {"height": None, "width": None, "steps": 1, "guidance": 1.0}, {"height": 32, "width": 48, "guidance": 7.0}],
    ids=["square", "own size", "wide"],
)
def test_two_stages_generate_what_the_two_pipelines_generate(
    base: Path, family: Family, changes: dict[str, Any]
) -> None:
    knobs = KNOBS.model_copy(update=changes)
    (ours,) = generated(Generator(family), [ImageRequest(PROMPT, 5)], knobs)
    assert ours.shape == (knobs.height or 2 * SIDE, knobs.width or 2 * SIDE, 3)
    assert np.abs(ours - theirs(base, 5, knobs)).max() <= 1.01


def test_a_image_is_the_same_in_any_batch(family: Family) -> None:
    generator = Generator(family, batch_size=1)
    alone = generated(generator, REQUESTS)
    assert all(np.array_equal(one, other) for one, other in zip(alone, generated(generator, REQUESTS), strict=True))
    generator.batch_size = 3
    together = generated(generator, REQUESTS)
    assert max(np.abs(one - other).max() for one, other in zip(alone, together, strict=True)) <= 2
    assert len({image.tobytes() for image in alone}) == 3


def test_each_stage_predicts_at_its_share_of_the_size(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    for stage in family.stages:
        monkeypatch.setattr(stage, "unet", spied(stage.parts["unet"], shapes))
    _ = generated(Generator(family), knobs=KNOBS.model_copy(update={"height": 32, "width": 48}))
    assert shapes == [(2, 3, 16, 24)] * KNOBS.steps + [(2, 6, 32, 48)] * KNOBS.steps


def spied(unet: Any, shapes: list[tuple[int, ...]]) -> Any:
    """A denoiser that records the shapes of its inputs."""

    class Spy(nn.Module):
        config, dtype = unet.config, unet.dtype

        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, sample: Tensor, *arguments: Any, **options: Any) -> Any:
            shapes.append(tuple(sample.shape))
            return self.unet(sample, *arguments, **options)

    return Spy()


def test_sides_suit_every_stage(base: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage generates half of a side, and its own sides divide by two."""
    assert Generator(family).size(Knobs()) == (2 * SIDE, 2 * SIDE)
    assert Generator(load_family(str(folders(base)[0]), device="cpu", precision="fp32")).size(Knobs(height=66)) == (
        66,
        SIDE,
    )
    with pytest.raises(UserError, match="66x64 does not divide by 4"):
        Generator(family).size(Knobs(height=64, width=66))
    assert family.stages[1].multiple == 4, "a multiple of the last stage's suits the first stage as well"
    monkeypatch.setattr(type(family.stages[1]), "multiple", 2)
    with pytest.raises(UserError, match="66x64 does not divide by 4"):
        Generator(family).size(Knobs(height=64, width=66))


def low_resolution_of(family: Family, x0_BCHW: Tensor, seed: int = 0) -> Conditioning:
    """The second stage's conditioning on images."""
    return family.stages[1].image_conditioning(x0_BCHW, [seeded(seed, i) for i in range(len(x0_BCHW))])


def test_an_image_conditions_as_reduced_enlarged_and_lightly_noised(family: Family) -> None:
    small = gaussian((3, 8, 12), [seeded("small", i) for i in range(2)]).clamp(-1, 1)
    blocks = functional.interpolate(small, (16, 24), mode="nearest")
    conditioning = low_resolution_of(family, blocks)
    assert conditioning["low_resolution_timestep"].tolist() == [AUGMENTATION] * 2
    clean = functional.interpolate(small, (16, 24), mode="bilinear", align_corners=True)
    noise = gaussian((3, 16, 24), [seeded(0, i) for i in range(2)])
    kept = 1 - 4.13e-5  # of the variance, at the noising scheduler's first timestep
    assert (conditioning["low_resolution"] - (clean * kept**0.5 + noise * (1 - kept) ** 0.5)).abs().max() < 1e-5
    detail = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(8, 12)
    assert (
        low_resolution_of(family, blocks + detail)["low_resolution"] - conditioning["low_resolution"]
    ).abs().max() < 1e-5, "detail within a pixel of the small image averages out"
    assert (
        low_resolution_of(family, blocks, seed=1)["low_resolution"] - conditioning["low_resolution"]
    ).abs().max() > 1e-3
    assert family.stages[0].image_conditioning(small, [seeded(0), seeded(1)]) == {}


def test_the_second_stage_uses_the_small_image_and_its_timestep(family: Family) -> None:
    stage, x = family.stages[1], gaussian((3, 16, 16), [seeded("x")])
    text, timestep = stage.condition([PROMPT], [Framing(original=(16, 16), target=(16, 16))]), torch.tensor([500])
    conditioning = {**text, **low_resolution_of(family, gaussian((3, 16, 16), [seeded("y")]))}
    states = text["encoder_hidden_states"]
    changes = (
        {},
        {"low_resolution": -conditioning["low_resolution"]},
        {"low_resolution_timestep": conditioning["low_resolution_timestep"] + 250},
        {"encoder_hidden_states": states * 2},
    )
    predictions = [stage.predict(x, timestep, {**conditioning, **change}) for change in changes]
    assert all(prediction.shape == x.shape for prediction in predictions)
    assert all((prediction - predictions[0]).abs().max() > 1e-5 for prediction in predictions[1:])


def batch_of(family: Family, number: int, count: int) -> Batch:
    """Random images of one stage's own size, each with its own generator."""
    mean = gaussian(family.stages[number].latent_shape(32, 32), [seeded("x", i) for i in range(count)]).clamp(-1, 1)
    return Batch(
        latents=Latents(mean_BCHW=mean, deviation_BCHW=torch.zeros_like(mean)),
        prompts=(PROMPT, "a cat", "a dog")[:count],
        framings=(Framing(original=(32, 32), target=(32, 32)),) * count,
        weight_B=torch.ones(count) / count,
        subject_count=count,
        generators=tuple(seeded("batch", i) for i in range(count)),
    )


def attach_to(family: Family, number: int) -> AttachedMethod:
    """A fresh LoRA on one stage."""
    (scheduled,) = LORA.phases
    return scheduled.phase.attach(family.stages[number], SUBJECT, 0, None)


@pytest.mark.parametrize("number", [0, 1])
def test_every_stage_trains(family: Family, number: int) -> None:
    """The loss is finite, an example's error is its own in any batch, and gradients arrive."""
    stage, attached = family.stages[number], attach_to(family, number)
    loss, error_B = training_loss(stage, batch_of(family, number, 2), stage.condition, attached.base_only)
    loss.backward()
    assert error_B.shape == (2,)
    assert torch.isfinite(error_B).all()
    _, alone_B = training_loss(stage, batch_of(family, number, 1), stage.condition, attached.base_only)
    torch.testing.assert_close(error_B[:1], alone_B, atol=1e-5, rtol=1e-5)
    grads = [p.grad for group in attached.groups for p in group.parameters if p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in grads) > 0


def pushed(attached: AttachedMethod, number: int) -> AttachedMethod:
    """The same LoRA, with changes large enough to see."""
    with torch.no_grad():
        for group in attached.groups:
            for index, parameter in enumerate(group.parameters):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded("push", number, index)))
    return attached


def trained(family: Family, number: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The export of a visible LoRA of one stage; the stage is restored."""
    attached = pushed(attach_to(family, number), number)
    export = attached.export()
    attached.detach()
    return export


NOTHING: tuple[dict[str, Tensor], dict[str, str]] = {}, {}


def adapter_of(*exports: tuple[dict[str, Tensor], dict[str, str]]) -> Adapter:
    """One file of every stage's export."""
    tensors, metadata = join_stages(exports)
    return Adapter(tensors=tensors, metadata=metadata, manifest=None)


def test_splitting_is_the_inverse_of_joining() -> None:
    exports = [
        ({"a": torch.ones(1), "stage.b": torch.zeros(1)}, {"m": "1"}),
        NOTHING,
        ({"a": torch.zeros(1)}, {"m": "3", "stage1.n": "4"}),
    ]
    adapter = adapter_of(*exports)
    assert set(adapter.tensors) == {"a", "stage.b", "stage3.a"}
    assert split_stages(adapter.tensors, adapter.metadata, 3) == exports


def test_one_adapter_applies_to_every_stage(base: Path, family: Family) -> None:
    """Each stage's weights apply alone or with the other's, with their alpha.

    At scale 0 the base generates its own bytes.
    """
    plain = generated(Generator(family))[0]
    one, two = trained(family, 0), trained(family, 1)
    images = [plain]
    for exports in ((one, NOTHING), (NOTHING, two), (one, two)):
        generator = Generator(load_family(str(base), device="cpu", precision="fp32"), adapter_of(*exports))
        assert [applied is None for applied in generator.applied.adapters[0][1]] == [
            export is NOTHING for export in exports
        ]
        images += generated(generator)
        assert np.array_equal(generated(generator, knobs=KNOBS.model_copy(update={"unet_scale": 0.0}))[0], plain)
    assert len({image.tobytes() for image in images}) == 4
    pushed(attach_to(family, 1), 1)
    assert np.abs(generated(Generator(family))[0] - images[2]).max() <= 2


def test_a_stage_that_the_base_lacks_is_refused(base: Path, family: Family) -> None:
    adapter = adapter_of(trained(family, 0), trained(family, 1))
    first = load_family(str(folders(base)[0]), device="cpu", precision="fp32")
    with pytest.raises(
        UserError, match=r"was trained for a stage 2, and this base has 1; give the base .*--base FIRST\+SECOND"
    ):
        Generator(first, adapter)


def test_an_adapter_that_does_not_fit_leaves_every_stage_alone(family: Family) -> None:
    plain = generated(Generator(family))[0]
    tensors, metadata = trained(family, 1)
    broken = {key.replace("to_q", "to_nowhere"): tensor for key, tensor in tensors.items()}
    with pytest.raises(UserError, match="does not fit the base"):
        Generator(family, adapter_of(trained(family, 0), (broken, metadata)))
    assert np.array_equal(generated(Generator(family))[0], plain)
    with pytest.raises(UserError, match="empty"):
        Generator(family, adapter_of(NOTHING, NOTHING))


def test_an_adapters_resolution_is_the_final_images(family: Family) -> None:
    manifest = Manifest(
        method="lora",
        base="b",
        base_identity=family.identity,
        token="sks",  # noqa: S106
        class_noun=None,
        resolution=32,
        step=1,
        recipe={},
    )
    tensors, metadata = join_stages([trained(family, 0)])
    generator = Generator(family, Adapter(tensors=tensors, metadata=metadata, manifest=manifest))
    assert generated(generator, knobs=Knobs(steps=1))[0].shape == (32, 32, 3)


def test_a_cascade_has_its_first_stages_family(base: Path, family: Family) -> None:
    assert family_name(str(base)) == family.name == family_name(str(folders(base)[0]))
    assert describe(str(base))["_class_name"] == "IFPipeline"
    assert len(family.stages) == 2


def test_both_stages_and_the_small_images_noise_make_the_identity(base: Path, family: Family, tmp_path: Path) -> None:
    first, second = folders(base)
    identities = {family.identity, load_family(str(first), device="cpu", precision="fp32").identity}
    other = tiny_base("deepfloyd_if_cascade", tmp_path / "other", seed=1)
    noisier = Path(shutil.copytree(second, tmp_path / "noisier"))
    file = noisier / "image_noising_scheduler" / "scheduler_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"beta_schedule": "linear"}), encoding="utf-8"
    )
    for changed in (folders(other)[1], noisier):
        identities.add(load_family(f"{first}+{changed}", device="cpu", precision="fp32").identity)
    assert len(identities) == 4


def test_the_second_stage_uses_the_first_stages_text_encoder(base: Path, family: Family, tmp_path: Path) -> None:
    """A second stage with a text encoder of its own generates the same; one T5 is in memory."""
    first, second = folders(base)
    full = Path(shutil.copytree(second, tmp_path / "full"))
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(first / part, full / part)
    index = json.loads((full / "model_index.json").read_text(encoding="utf-8"))
    kept = json.loads((first / "model_index.json").read_text(encoding="utf-8"))
    (full / "model_index.json").write_text(
        json.dumps(index | {part: kept[part] for part in ("text_encoder", "tokenizer")}), encoding="utf-8"
    )
    other = load_family(f"{first}+{full}", device="cpu", precision="fp32")
    assert np.array_equal(generated(Generator(other))[0], generated(Generator(family))[0])
    stages: Any = other.stages
    assert len(stages[0].loaded) == 1
    assert not stages[1].loaded
    stages[1].release_encoders(text=True)
    assert not stages[0].loaded
    assert stages[1].truncations("a dog " * 99) == stages[0].truncations("a dog " * 99) != {}
    assert not stages[1].vocabularies, "a T5's table is never trained"


def test_a_saved_second_stage_generates_what_it_generated(base: Path, family: Family, tmp_path: Path) -> None:
    stage = family.stages[1]
    with torch.no_grad():
        next(stage.parts["unet"].parameters()).add_(0.05)
    stage.save(tmp_path / "saved")
    again = load_family(f"{folders(base)[0]}+{tmp_path / 'saved'}", device="cpu", precision="fp32")
    assert np.array_equal(generated(Generator(again))[0], generated(Generator(family))[0])
    assert again.identity != family.identity


def test_names_are_split_only_where_every_part_may_be_a_base(tmp_path: Path) -> None:
    one, two, whole = (tmp_path / name for name in ("a+b", "c", "d+e"))
    for folder in (one, two, whole):
        folder.mkdir()
    assert split_cascade(f"{one}+{two}") == (str(one), str(two))
    assert split_cascade(f"{two}+{one}") == (str(two), str(one))
    assert split_cascade(str(whole)) == (str(whole),)
    assert split_cascade("DeepFloyd/IF-I-M-v1.0+DeepFloyd/IF-II-M-v1.0") == (
        "DeepFloyd/IF-I-M-v1.0",
        "DeepFloyd/IF-II-M-v1.0",
    )
    assert split_cascade(f"{two}+owner/b+starter") == (str(two), "owner/b", "starter")
    for base in (
        f"{tmp_path / 'missing'}+{two}",
        f"{two}+{tmp_path / 'missing'}",
        f"+{two}",
        f"{two}+",
        "+",
        "",
        "owner/a+b",
    ):
        assert split_cascade(base) == (base,)


@pytest.mark.parametrize("name", ["DeepFloyd/IF-I-M-v1.0", "owner/xl-base-1.0", "owner/model.1-dev"])
def test_a_version_in_a_hub_id_is_no_files_ending(base: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mascot.models.families.base_source.download_index",
        lambda requested: {name: folders(base)[0]}[requested] / "model_index.json",
    )
    assert describe(name)["_class_name"] == "IFPipeline"
    assert describe(f"{name}+{folders(base)[1]}")["_class_name"] == "IFPipeline"
    with pytest.raises(UserError, match="does not exist"):
        describe(f"{name}.safetensors")


def refusal(base: str, *, load: bool = False) -> str:
    """The one sentence with which a base is refused."""
    with pytest.raises(UserError) as error:
        _ = load_family(base, device="cpu", precision="fp32") if load else describe(base)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def test_what_does_not_belong_together_is_refused_before_a_weight_is_read(base: Path, tmp_path: Path) -> None:
    first, second = folders(base)
    latent = tiny_stable_diffusion(tmp_path / "latent")
    assert f"give both, as --base FIRST+{second}" in refusal(str(second))
    assert f"give both, as --base FIRST+{second}" in refusal(f"{second}+{first}")
    assert "is a IFPipeline, which does not enlarge the images of a IFPipeline" in refusal(f"{first}+{first}")
    assert "which does not enlarge the images of a StableDiffusionPipeline" in refusal(f"{latent}+{second}")
    assert "joins 3 stages" in refusal(f"{first}+{second}+{second}")
    assert "does not exist" in refusal(f"{first}+{tmp_path / 'nowhere'}")
    assert "model_index.json" in refusal(f"{first}+{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sample_size": 96}, "it generates 96 px, not a multiple of 64"),
        ({"sample_size": 64}, "it generates 64 px, not a multiple of 64"),
        ({"in_channels": 7}, "it reads 7 channels, not twice 3"),
        ({"encoder_hid_dim": 40}, "it reads 40 numbers a token, not 32"),
    ],
)
def test_stages_of_different_cascades_are_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    first, second = folders(base)
    other = IFSuperResolutionPipeline.from_pretrained(second, local_files_only=True)
    other.register_modules(unet=type(other.unet).from_config({**other.unet.config, **changes}))
    other.save_pretrained(tmp_path / "other")
    sentence = refusal(f"{first}+{tmp_path / 'other'}", load=True)
    assert reason in sentence
    assert "join the two stages of one cascade" in sentence


def test_a_first_stage_without_its_text_encoder_is_refused(base: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(folders(base)[0], tmp_path / "first"))
    index = json.loads((first / "model_index.json").read_text(encoding="utf-8"))
    (first / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}), encoding="utf-8")
    shutil.rmtree(first / "text_encoder")
    assert "text_encoder is incomplete" in refusal(f"{first}+{folders(base)[1]}", load=True)
