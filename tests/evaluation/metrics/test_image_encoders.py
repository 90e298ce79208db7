"""Laws of the encoders: they embed as transformers does, in any batch; wrong ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import (
    BATCH_SIZE,
    IDENTITY_KINDS,
    ClipEncoder,
    IdentityEncoder,
    read_clip,
    read_identity_encoder,
)
from mascot.evaluation.metrics.image_preprocessing import Preprocessing, opaque
from tiny.stable_diffusion import tiny_clip_tokenizer

SIDE = 32
POSITIONS = 8
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": lambda: ViTModel(ViTConfig(image_size=SIDE, **SIZES)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(image_size=64, **SIZES)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(image_size=64, num_register_tokens=3, **SIZES)
    ),
    "dinov3_vit": lambda: DINOv3ViTModel(DINOv3ViTConfig(image_size=64, num_register_tokens=2, **SIZES)),
}
PROMPTS = ["a dog", "a photo of a toy on the beach", "", "a cat in the snow with a red hat and a blue hat"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PLAIN: dict[str, Any] = {"image_mean": MEAN, "image_std": STD, "resample": 3}


def images(count: int = 5) -> list[Image.Image]:
    """Noise of several sizes and proportions, the same in every test."""
    noise = torch.Generator().manual_seed(5)
    sizes = [(50, 40), (33, 71), (SIDE, SIDE), (20, 25), (64, 64)]
    return [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=noise, dtype=torch.uint8).numpy())
        for height, width in (sizes[index % len(sizes)] for index in range(count))
    ]


def write_identity(folder: Path, kind: str = "vit", settings: dict[str, Any] | None = None, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MODELS[kind]().half().save_pretrained(folder)
    settings = settings or PLAIN | {"size": {"shortest_edge": 40}, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_clip(folder: Path) -> Path:
    tokenizer = tiny_clip_tokenizer(positions=POSITIONS)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    text = {key: SIZES[key] for key in SIZES if key != "patch_size"} | ends | {"vocab_size": len(tokenizer)}
    config = CLIPConfig(
        text_config=text | {"max_position_embeddings": POSITIONS},
        vision_config=SIZES | {"image_size": SIDE},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return folder


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return write_identity(tmp_path / "vit")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


@pytest.mark.parametrize("kind", IDENTITY_KINDS)
def test_identity_is_transformers_own_class_token(tmp_path: Path, kind: str) -> None:
    folder = write_identity(tmp_path / kind, kind)
    encoder = read_identity_encoder(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=SIDE, image_mean=MEAN, image_std=STD)
    pixels = processor(images(), return_tensors="pt").pixel_values
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(pixel_values=pixels).last_hidden_state
    states = states / states.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(encoder.embed(images()), states[:, 0], atol=1e-5, rtol=0)
    patches = encoder.patches(images())
    assert patches.shape == (5, (SIDE // 8) ** 2, 16)
    torch.testing.assert_close(patches, states[:, -patches.shape[1] :], atol=1e-5, rtol=0)


def test_clip_is_transformers_own(clip: Path) -> None:
    encoder = read_clip(clip)
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images(4), return_tensors="pt").pixel_values
    tokens = encoder.tokenizer(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(clip, dtype=torch.float32)(pixel_values=pixels, **tokens)
    torch.testing.assert_close(encoder.embed(images(4)), expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.embed_prompts(PROMPTS), expected.text_embeds, atol=1e-5, rtol=0)


def test_embeddings_are_unit_float32_and_the_same_in_any_batch(vit: Path, clip: Path) -> None:
    many = images(BATCH_SIZE + 3)
    identity, both = read_identity_encoder(vit), read_clip(clip)
    prompts = PROMPTS * 9
    for embed, items in (
        (identity.embed, many),
        (identity.patches, many),
        (both.embed, many),
        (both.embed_prompts, prompts),
    ):
        together = embed(items)
        assert together.dtype == torch.float32
        assert not together.requires_grad
        torch.testing.assert_close(together.norm(dim=-1), torch.ones(together.shape[:-1]))
        torch.testing.assert_close(together, torch.cat([embed([item]) for item in items]), atol=1e-6, rtol=0)
        assert not torch.allclose(together[0], together[1], atol=1e-3)
        with pytest.raises(ValueError, match="nothing to embed"):
            embed([])


def test_prompts_whose_end_is_not_read_are_listed(clip: Path) -> None:
    encoder = read_clip(clip)
    fits = " ".join(["dog"] * (POSITIONS - 2))  # and both ends
    assert encoder.truncated([fits, f"{fits} dog"]) == [f"{fits} dog"]
    assert encoder.truncated(PROMPTS) == [PROMPTS[1], PROMPTS[3]]
    embedded = encoder.embed_prompts([PROMPTS[3], PROMPTS[3] + " and a dog"])
    assert torch.equal(embedded[0], embedded[1])


def preprocessing_of(settings: dict[str, Any], folder: Path, kind: str = "vit") -> Preprocessing:
    return read_identity_encoder(write_identity(folder, kind, settings)).preprocessing


@pytest.mark.parametrize("crop", [SIDE, {"height": SIDE, "width": SIDE}])
@pytest.mark.parametrize("size", [40, {"shortest_edge": 40}, {"height": 40, "width": 40}])
def test_every_shape_of_a_size_is_read(tmp_path: Path, size: Any, crop: Any) -> None:
    found = preprocessing_of(PLAIN | {"size": size, "crop_size": crop}, tmp_path / "vit")
    assert found == Preprocessing(resize=40, crop=SIDE, mean=tuple(MEAN), std=tuple(STD))


def test_a_vision_transformer_without_a_crop_follows_the_convention(tmp_path: Path) -> None:
    folder = write_identity(tmp_path / "vit", settings=PLAIN | {"size": 28 * 8, "resample": 2}, kind="dinov2")
    encoder = read_identity_encoder(folder)
    assert (encoder.preprocessing.resize, encoder.preprocessing.crop, encoder.preprocessing.resample) == (
        256,
        224,
        "bicubic",
    )
    assert "resize 256 bicubic, centre crop 224 (the convention" in encoder.describe()


def test_clip_without_a_crop_is_cropped_at_its_size(clip: Path) -> None:
    (clip / "preprocessor_config.json").write_text(
        json.dumps(PLAIN | {"size": SIDE, "do_center_crop": False, "crop_size": 7})
    )
    preprocessing = read_clip(clip).preprocessing
    assert (preprocessing.resize, preprocessing.crop, preprocessing.conventional) == (SIDE, SIDE, False)


@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_those_of_transformers_own_vit_processor(tmp_path: Path, resample: int) -> None:
    processor = ViTImageProcessorPil(
        size={"shortest_edge": 37}, do_center_crop=True, crop_size={"height": SIDE, "width": SIDE}, resample=resample
    )
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    preprocessing = preprocessing_of(settings, tmp_path / "vit")
    for image in images():
        expected = processor(image, return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(preprocessing.prepare(image), expected, atol=1e-5, rtol=0)


def test_images_of_other_modes_become_rgb_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = 0
    palette.putpixel((0, 0), 0)
    for image in (clear, palette):
        found = opaque(image)
        assert [found.mode, found.getpixel((0, 0)), found.getpixel((1, 0))] == ["RGB", (255, 255, 255), (10, 20, 30)]
    assert opaque(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == (7, 7, 7)
    assert opaque(Image.new("LA", (1, 1), (7, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_an_encoder_describes_itself_in_one_line(tmp_path: Path, vit: Path, clip: Path) -> None:
    identity, both = read_identity_encoder(vit), read_clip(clip)
    assert identity.describe() == (
        f"vit (weights {identity.fingerprint}): resize 40 bicubic, centre crop 32, "
        "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    )
    assert both.describe().startswith(
        f"clip (weights {both.fingerprint}): resize 32 bicubic, centre crop 32, mean 0.481455 "
    )
    other = read_identity_encoder(write_identity(tmp_path / "other", seed=1))
    moved = read_identity_encoder(shutil.copytree(vit, tmp_path / "moved"))
    assert identity.fingerprint == moved.fingerprint != other.fingerprint


def test_weights_are_float32_and_frozen(vit: Path, clip: Path) -> None:
    for model in (read_identity_encoder(vit).model, read_clip(clip).model):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert not any(weight.requires_grad for weight in model.parameters())
        assert not model.training


def test_dinos_weights_are_read_under_their_published_names_and_without_a_pooler(vit: Path) -> None:
    before = read_identity_encoder(vit)
    file = vit / "model.safetensors"
    names = {
        "layers.": "encoder.layer.",
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(file).items():
        published = name
        if not any(old in name for old in names.values()):
            for new, old in names.items():
                published = published.replace(new, old)
        if not name.startswith("pooler."):
            weights[published] = weight
    assert "encoder.layer.0.attention.attention.query.weight" in weights
    save_file(weights, file, metadata={"format": "pt"})
    assert read_identity_encoder(vit).fingerprint == before.fingerprint


Fault = Callable[[Path], object]


def edited(file: str, **settings: Any) -> Fault:
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | settings))


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("embeddings.cls_token" if "embeddings.cls_token" in weights else "visual_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


PREPROCESSING = "preprocessor_config.json"
FAULTS: dict[str, tuple[Fault, str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "torn config": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "a list": (lambda folder: (folder / PREPROCESSING).write_text("[]"), "not an object"),
    "other kind": (edited("config.json", model_type="bert"), "the kind 'bert'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    "torn weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "cannot be loaded"),
    "a weight missing": (without_a_weight, "are incomplete"),
    "no preprocessing": (lambda folder: (folder / PREPROCESSING).unlink(), "holds no preprocessor_config.json"),
    "crop of another side": (edited(PREPROCESSING, size=64, crop_size=64), "images of 32 px"),
    "crop beyond": (edited(PREPROCESSING, size=24), "a crop of 32 px from 24 px"),
    "oblong": (edited(PREPROCESSING, size={"height": 40, "width": 32}), "the size {'height': 40, 'width': 32}"),
    "longest edge": (edited(PREPROCESSING, size={"shortest_edge": 40, "longest_edge": 50}), "longest_edge"),
    "oblong crop": (edited(PREPROCESSING, crop_size={"height": 32, "width": 16}), "the crop_size"),
    "grey": (edited(PREPROCESSING, image_mean=[0.5]), "the image_mean"),
    "nearest": (edited(PREPROCESSING, resample=0), "the resample 0"),
    "unscaled": (edited(PREPROCESSING, do_rescale=False), "not scaled"),
    "other scale": (edited(PREPROCESSING, rescale_factor=1 / 127.5), "the rescale_factor"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_broken_encoder_is_refused_in_one_sentence(tmp_path: Path, kind: str, fault: str) -> None:
    folder = write_clip(tmp_path / kind) if kind == "clip" else write_identity(tmp_path / kind)
    break_folder, complaint = FAULTS[fault]
    break_folder(folder)
    assert complaint in refusal(read_clip if kind == "clip" else read_identity_encoder, folder)


def test_an_old_configuration_ends_prompts_with_the_largest_id(clip: Path) -> None:
    before = read_clip(clip).embed_prompts(PROMPTS)
    write_old_end(clip)
    assert torch.equal(read_clip(clip).embed_prompts(PROMPTS), before)


@pytest.mark.parametrize("configuration", ["old", "new"])
def test_a_tokenizer_that_is_not_there_or_not_the_text_encoders_is_refused(clip: Path, configuration: str) -> None:
    if configuration == "old":
        write_old_end(clip)
    tiny_clip_tokenizer(("dog",), positions=POSITIONS).save_pretrained(clip)
    assert "not its text encoder's" in refusal(read_clip, clip)
    for file in clip.glob("tokenizer*"):
        file.unlink()
    assert "the tokenizer of" in refusal(read_clip, clip)


def write_old_end(folder: Path) -> None:
    """Write the end of prompt as published configurations have it."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))


def test_one_kind_is_not_taken_for_the_other(vit: Path, clip: Path) -> None:
    assert "where a CLIP model is needed" in refusal(read_clip, vit)
    assert "where a vision transformer is needed" in refusal(read_identity_encoder, clip)


@pytest.mark.parametrize("source", ["", "  ", "nowhere", "./no/where", "/no/where", "a/b/c", "~/x", Path(__file__)])
def test_a_missing_encoder_is_refused(source: str | Path) -> None:
    assert "give the folder of a CLIP model" in refusal(read_clip, source)


def test_a_hub_id_that_cannot_be_fetched_is_refused() -> None:
    assert "check the name and the network" in refusal(read_identity_encoder, "mascot-tests/no-such-encoder")


def refusal(read: Callable[[str | Path], IdentityEncoder | ClipEncoder], source: str | Path) -> str:
    """The one sentence with which an encoder is refused."""
    with pytest.raises(UserError) as caught:
        read(source)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence
