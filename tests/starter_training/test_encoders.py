"""Laws of the encoders' training and export: the papers' losses, the teacher, reading back."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from starter_training.drawings.objects import read_objects
from starter_training.export import export_encoders as exports
from starter_training.export.export_encoders import LIMIT_MB, export_encoders, write_encoder
from starter_training.export.export_encoders import embed as embed_images
from starter_training.export.package_folder import ORIGINS
from starter_training.models.distillation import Distillation, assign
from starter_training.models.encoders import (
    SIDE,
    TEMPERATURE,
    WIDTH,
    caption_loss,
    contrast_loss,
    embed,
    make_clip,
    make_identity_encoder,
    nearest_right,
    read_average,
    split_families,
    to_inputs,
)
from starter_training.scenes.augmentations import families_of
from starter_training.scenes.world import World
from tiny.stable_diffusion import tiny_clip_tokenizer

POSITIONS = 8
SIZES: dict[str, Any] = {"intermediate_size": 32, "num_hidden_layers": 1}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Any) -> Any:
    """Call `make` with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def student() -> ViTModel:
    """A vision transformer as wide as the starter's, of one layer and four patches."""
    config = ViTConfig(
        hidden_size=WIDTH,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=SIDE // 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZES,
    )
    return seeded(lambda: ViTModel(config, add_pooling_layer=False))


def tokenizer() -> CLIPTokenizer:
    return tiny_clip_tokenizer(positions=POSITIONS)


def tiny_clip() -> CLIPModel:
    words = tokenizer()
    ends = {f"{end}_token_id": getattr(words, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    heads: dict[str, Any] = SIZES | {"hidden_size": 16, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=heads | ends | {"vocab_size": len(words), "max_position_embeddings": POSITIONS},
        vision_config=heads | {"image_size": SIDE, "patch_size": SIDE // 2},
        projection_dim=12,
    )
    return seeded(lambda: CLIPModel(config))


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


# Losses


def test_contrast_is_nt_xent() -> None:
    """The loss equals equation 1 of Chen et al. 2020, computed view by view."""
    embeddings = noise(10, 7)
    losses: list[float] = []
    for i in range(10):
        likeness = [F.cosine_similarity(embeddings[i], embeddings[k], dim=0).item() / TEMPERATURE for k in range(10)]
        others = np.logaddexp.reduce([likeness[k] for k in range(10) if k != i])
        losses.append(others - likeness[i + 1 if i % 2 == 0 else i - 1])
    assert abs(contrast_loss(embeddings).item() - np.mean(losses)) < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_contrast_is_lowest_where_views_agree(seed: int) -> None:
    """Equal views of orthogonal subjects have a lower loss than disturbed or mismatched views."""
    agreeing = torch.eye(6).repeat_interleave(2, 0)
    lowest = contrast_loss(agreeing).item()
    assert lowest < contrast_loss(agreeing + 0.3 * noise(12, 6, seed=seed)).item()
    assert lowest < contrast_loss(agreeing.roll(1, 0)).item()


def test_the_length_of_embeddings_does_not_matter() -> None:
    embeddings = noise(8, 5)
    stretched = embeddings * torch.linspace(0.1, 10, 8)[:, None]
    assert abs(contrast_loss(embeddings) - contrast_loss(stretched)) < 1e-5


def test_captions_are_trained_by_cross_entropy() -> None:
    """Each caption has to find its image among all, and each image its caption."""
    logits = 3 * noise(5, 5)
    stub: Any = lambda **_: SimpleNamespace(logits_per_text=logits)  # noqa: E731 - a model of one line
    right = range(5)
    by_text = np.mean([torch.logsumexp(logits[i], 0).item() - logits[i, i].item() for i in right])
    by_image = np.mean([torch.logsumexp(logits[:, i], 0).item() - logits[i, i].item() for i in right])
    assert abs(caption_loss(stub, noise(5, 3, 4, 4), torch.zeros(5, 4)).item() - (by_text + by_image) / 2) < 1e-6


def test_training_lowers_a_clips_loss() -> None:
    """A few steps on one batch of scenes lower the loss, and every parameter has a gradient."""
    clip = tiny_clip()
    ids = tokenizer()(
        ["a dog", "a cat", "a red hat", "snow"], padding="max_length", max_length=POSITIONS, return_tensors="pt"
    ).input_ids
    optimizer, inputs = torch.optim.Adam(clip.parameters(), lr=3e-3), to_inputs(pixels())
    losses: list[float] = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = caption_loss(clip, inputs, ids)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, parameter in clip.named_parameters() if parameter.grad is None] == []


def test_an_oracle_is_always_right() -> None:
    exact = noise(20, 16).repeat_interleave(2, 0)
    assert nearest_right(exact + 0.01 * noise(40, 16, seed=1)) == 1
    assert nearest_right(exact.roll(1, 0)) == 0


def test_guessing_is_right_by_chance() -> None:
    """With three others to choose from, a third of the guesses."""
    assert abs(np.mean([nearest_right(noise(4, 16, seed=seed)) for seed in range(400)]) - 1 / 3) < 0.06


def test_inputs_run_from_minus_one_to_one() -> None:
    colors = np.zeros((1, 2, 3, 3), np.uint8)
    colors[0, 0, 2] = (0, 255, 51)
    inputs = to_inputs(colors)
    assert (inputs.shape, inputs.dtype) == ((1, 3, 2, 3), torch.float32)
    assert torch.allclose(inputs[0, :, 0, 2], torch.tensor([-1.0, 1.0, -0.6]), atol=1e-6)


# Distillation


@pytest.fixture
def distilled() -> tuple[Distillation, ViTModel]:
    """A distillation and its student after one step's loss."""
    distillation, encoder = seeded(Distillation), student()
    distillation.loss(encoder, to_inputs(pixels()), 0.5).backward()
    return distillation, encoder


def teacher_of(distillation: Distillation) -> list[Tensor]:
    assert distillation.teacher is not None
    twin, head, prototypes = distillation.teacher
    return [*twin.parameters(), *head.parameters(), prototypes]


def student_weights(distillation: Distillation, encoder: nn.Module) -> list[Tensor]:
    """The student's weights in the teacher's order."""
    return [*encoder.parameters(), *distillation.head.parameters(), distillation.prototypes]


def test_a_teacher_starts_as_its_student(distilled: tuple[Distillation, ViTModel]) -> None:
    """Their weights are equal, and no memory is shared."""
    for mine, theirs in zip(teacher_of(distilled[0]), student_weights(*distilled), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_a_teacher_is_not_trained(distilled: tuple[Distillation, ViTModel]) -> None:
    """Its weights are no parameters and have no gradient; all of the student's have one."""
    distillation, encoder = distilled
    teacher = {id(weight) for weight in teacher_of(distillation)}
    assert not teacher & {id(parameter) for module in (distillation, encoder) for parameter in module.parameters()}
    assert sum(p.numel() for p in distillation.parameters()) == sum(
        p.numel() for p in seeded(Distillation).parameters()
    )
    assert [weight for weight in teacher_of(distillation) if weight.grad is not None] == []
    assert [weight for weight in student_weights(distillation, encoder) if weight.grad is None] == []


def test_a_teacher_follows_by_the_momentum(distilled: tuple[Distillation, ViTModel]) -> None:
    """Each weight moves a tenth of the way at a momentum of 0.9, and not at all at 1."""
    distillation, encoder = distilled
    before = [weight.detach().clone() for weight in teacher_of(distillation)]
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *distillation.parameters()):
            parameter.add_(1.0)
    distillation.follow(encoder, 1.0)
    assert all(map(torch.equal, teacher_of(distillation), before))
    distillation.follow(encoder, 0.9)
    moved = [weight - old for weight, old in zip(teacher_of(distillation), before, strict=True)]
    assert max((by - 0.1).abs().max().item() for by in moved) < 1e-5


def test_a_student_predicts_the_output_for_the_other_view() -> None:
    """The loss is the cross-entropy with the teacher's output for the other view.

    The teacher's temperature is 0.04, the student's 0.1.
    """
    distillation, encoder, inputs = seeded(Distillation), student(), to_inputs(pixels())
    with torch.no_grad():
        loss = distillation.loss(encoder, inputs, 0.0).item()
        output = assign(distillation.head, distillation.prototypes, embed(encoder, inputs))
    expected = np.mean(
        [-((output[i ^ 1] / 0.04).softmax(0) * (output[i] / 0.1).log_softmax(0)).sum().item() for i in range(4)]
    )
    assert abs(loss - expected) < 1e-4
    assert torch.allclose(distillation.center, 0.1 * output.mean(0), atol=1e-6)


# Families and weights


def test_families_are_split_for_good(tmp_path: Path) -> None:
    """Training and validation share no drawing, cover all families, and are always the same."""
    icons = [f"thing-{number}" for number in range(30)]
    made = {
        f"{art}/{icon}": np.zeros((2, 2, 4), np.uint8)
        for icon in (*icons, *read_objects()["accessories"])
        for art in ("noto", "twemoji")
    }
    np.savez(tmp_path / "drawings.npz", **made)  # pyright: ignore[reportArgumentType]
    worlds = [
        World(tmp_path / "drawings.npz", 4, nouns={icon: {"bodies": [icon]} for icon in order})
        for order in (icons, icons[::-1])
    ]
    training, unseen = split_families(worlds[0])
    shown, held = ({key for family in families for key in family.keys} for families in (training, unseen))
    assert not shown & held
    assert shown | held == {key for family in families_of(worlds[0]) for key in family.keys}
    assert 1 <= len(unseen) <= len(training) / 8
    assert split_families(worlds[1]) == (training, unseen)


def test_an_average_is_read_from_the_front(tmp_path: Path) -> None:
    """An encoder reads exactly its own part of what was trained together, in evaluation mode."""
    encoder = student().train()
    own = sum(p.numel() for p in encoder.parameters())
    saved = torch.arange(own + 100, dtype=torch.float32)
    torch.save({"average": saved, "parameters": -saved}, tmp_path / "weights.pt")
    read = read_average(encoder, tmp_path)
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in read.parameters()]), saved[:own])
    assert not read.training


# The export


@pytest.fixture
def trained(tmp_path: Path) -> ViTModel:
    """An encoder that was read from a folder, whose path is in its configuration."""
    student().save_pretrained(tmp_path / "private")
    return ViTModel.from_pretrained(tmp_path / "private", add_pooling_layer=False)


@pytest.fixture
def trained_clip(tmp_path: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    tiny_clip().save_pretrained(tmp_path / "private")
    tokenizer().save_pretrained(tmp_path / "private")
    return CLIPModel.from_pretrained(tmp_path / "private"), CLIPTokenizer.from_pretrained(tmp_path / "private")


def check_folder(out: Path, megabytes: float) -> None:
    """Check that a written folder is small, anonymous, complete and readable by everyone."""
    files = [file for file in out.rglob("*") if file.is_file()]
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values() if tensor.is_floating_point()} == {
        torch.float16
    }
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        file.name for file in files
    }
    assert [file.name for file in files if str(out.parent).encode() in file.read_bytes()] == []
    settings = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.suffix == ".json"]
    assert [key for setting in settings for key in setting if key in ORIGINS] == []
    assert {file.stat().st_mode & 0o444 for file in files} == {0o444}
    assert abs(megabytes - sum(file.stat().st_size for file in files) / 1e6) < 1e-9
    assert (out / "README.md").read_text(encoding="utf-8") == "the card"


def test_an_identity_encoder_reads_back(trained: ViTModel, tmp_path: Path) -> None:
    """Read by transformers or by mascot, it gives the embeddings of the model in memory."""
    inputs = to_inputs(pixels())
    expected = F.normalize(embed_images(copy.deepcopy(trained).eval(), inputs), dim=-1)
    check_folder(tmp_path / "identity", write_encoder(trained, tmp_path / "identity", "the card", inputs))
    plain = ViTModel.from_pretrained(tmp_path / "identity", dtype=torch.float32, add_pooling_layer=False).eval()
    ours = read_identity_encoder(tmp_path / "identity")
    images = [Image.fromarray(image) for image in pixels()]
    assert torch.equal(
        torch.stack([ours.preprocessing.prepare(image) for image in images]).round(decimals=5), inputs.round(decimals=5)
    )
    assert (F.normalize(embed_images(plain, inputs), dim=-1) - expected).abs().max() < 5e-3
    assert (ours.embed(images) - expected).abs().max() < 5e-3


def test_a_clip_reads_back(trained_clip: tuple[CLIPModel, CLIPTokenizer], tmp_path: Path) -> None:
    """It embeds images and prompts as the model in memory did, with the same tokenizer."""
    clip, words = trained_clip
    inputs, prompts = to_inputs(pixels()), ["a dog", "a red hat in the snow"]
    expected = F.normalize(embed_images(copy.deepcopy(clip).eval(), inputs), dim=-1)
    ids = words(prompts, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt").input_ids
    with torch.no_grad():
        text = F.normalize(clip.eval().text_projection(clip.text_model(input_ids=ids).pooler_output), dim=-1)
    check_folder(tmp_path / "clip", write_encoder(clip, tmp_path / "clip", "the card", inputs, words))
    ours = read_clip(tmp_path / "clip")
    assert (ours.embed([Image.fromarray(image) for image in pixels()]) - expected).abs().max() < 5e-3
    assert (ours.embed_prompts(prompts) - text).abs().max() < 5e-3


def test_an_encoder_that_half_precision_cannot_hold_is_refused(trained: ViTModel, tmp_path: Path) -> None:
    """The old folder stays complete, and nothing else is left."""
    out = tmp_path / "starter" / "identity"
    out.mkdir(parents=True)
    (out / "before").touch()
    with torch.no_grad():
        trained.layernorm.weight.fill_(1e6)
    with pytest.raises(RuntimeError, match="gives other embeddings"):
        write_encoder(trained, out, "the card", to_inputs(pixels()))
    assert [
        path.relative_to(tmp_path / "starter").as_posix() for path in sorted((tmp_path / "starter").rglob("*"))
    ] == [
        "identity",
        "identity/before",
    ]


def test_untrained_encoders_are_reported(tmp_path: Path) -> None:
    """Exporting before any training says which steps to run, and writes nothing."""
    with pytest.raises(UserError, match=r"starter_training clip .* or .*starter_training identity "):
        export_encoders(tmp_path, tmp_path / "starter", "contrast")
    assert not (tmp_path / "starter").exists()


@pytest.mark.parametrize("other", [10, int(LIMIT_MB * 1e6)])
def test_an_encoder_that_was_not_trained_stays_as_it_is(
    tmp_path: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is written, unless both together would be too heavy."""
    monkeypatch.setattr(exports, "probe_images", lambda _work: to_inputs(pixels()))
    monkeypatch.setattr(exports, "read_catalogue", lambda _modules: {"dog": "dog"})
    tiny_clip_tokenizer().save_pretrained(tmp_path / "tokenizer")
    encoder, folder = make_identity_encoder(), tmp_path / "encoders" / "identity-contrast"
    folder.mkdir(parents=True)
    torch.save({"average": torch.cat([p.detach().flatten() for p in encoder.parameters()])}, folder / "weights.pt")
    starter = tmp_path / "starter"
    (starter / "clip").mkdir(parents=True)
    (starter / "clip" / "before").write_bytes(bytes(other))
    if other > 10:
        with pytest.raises(UserError, match="make them narrower"):
            export_encoders(tmp_path, starter, "contrast")
        assert not (starter / "identity").exists()
    else:
        assert re.fullmatch(r"identity 5\.\d MB in .*", export_encoders(tmp_path, starter, "contrast"))
        assert (starter / "identity" / "model.safetensors").is_file()
    assert [file.name for file in (starter / "clip").iterdir()] == ["before"]


def test_the_starter_s_own_encoders_fit_the_limit() -> None:
    """In half precision both together are smaller than the limit, without the tokenizer."""
    with torch.device("meta"):
        models = (make_clip(tiny_clip_tokenizer()), make_identity_encoder())
    assert sum(2 * p.numel() for model in models for p in model.parameters()) / 1e6 < LIMIT_MB
