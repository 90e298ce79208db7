"""Laws of textual inversion: only the token's rows are trained, and the base is restored.

The file gives the same image here and in diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mascot.adapters.token_rows import (
    RECORDS_KEY,
    TokenRecord,
    read_records,
    rows_from_file,
    rows_to_file,
    write_records,
)
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.textual_inversion import TextualInversionSettings, TokenTraining, pull_norms, restore
from mascot.models.families.registry import load_family
from mascot.models.token_embeddings import initial_rows
from mascot.protocols import AttachedMethod, Family, Framing, Stage, Subject
from tiny.families import tiny_base
from tiny.stable_diffusion import WIDTH, tiny_stable_diffusion

PROMPT = "a photo of a sks dog in the snow"
SUBJECT = Subject("sks", "dog")
NAMES = ["sd", "sdxl", "sd3", "flux"]
KNOBS = Knobs(steps=3, guidance=3.0, height=64, width=64)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Make a base of each family, by the family's name."""
    home = tmp_path_factory.mktemp("bases")
    made = {name: tiny_base(name, home / name) for name in [*NAMES[1:], "deepfloyd_if"]}
    return made | {"sd": tiny_stable_diffusion(home / "sd")}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Family]:
    """Keep loaded families; a token that a test leaves applied is removed after it."""
    return {}


@pytest.fixture
def family(bases: Mapping[str, Path], loaded: dict[str, Family], name: str) -> Iterator[Family]:
    if name not in loaded:
        loaded[name] = opened(bases, name)
    yield loaded[name]
    for vocabulary in loaded[name].stages[0].vocabularies.values():
        vocabulary.remove()


def opened(bases: Mapping[str, Path], name: str) -> Family:
    return load_family(str(bases[name]), device="cpu", precision="fp32")


every_family = pytest.mark.parametrize("name", NAMES)
stable_diffusion = pytest.mark.parametrize("name", ["sd"])


def attach(stage: Stage, subject: Subject = SUBJECT, **settings: Any) -> TokenTraining:
    return TextualInversionSettings(**settings).attach(stage, subject, 0, None)


def moved(attached: TokenTraining) -> TokenTraining:
    """Move the rows far from their start, each in its own direction."""
    for part, rows_ND in attached.tokens[0].rows.items():
        rows_ND.data.add_(torch.randn(rows_ND.shape, generator=seeded("push", part)))
    return attached


def generated(family: Family, prompt: str = PROMPT, **knobs: Any) -> np.ndarray:
    """Generate one image with our generator, H x W x 3, 0..255."""
    return np.asarray(
        next(iter(Generator(family).generate([ImageRequest(prompt, 5)], KNOBS.model_copy(update=knobs)))), np.float64
    )


def prediction(stage: Stage) -> Tensor:
    """Predict for the prompt at one timestep."""
    noisy = gaussian(stage.latent_shape(64, 64), [seeded("x")])
    return stage.predict(
        noisy, torch.tensor([500]), stage.condition([PROMPT], [Framing(original=(64, 64), target=(64, 64))])
    )


def bits(stage: Stage) -> dict[str, Tensor]:
    """Copy every parameter and buffer of the stage's parts."""
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in stage.parts.items()
        for name, value in [*module.named_parameters(), *module.named_buffers()]
    }


def same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())


def steps(stage: Stage, attached: AttachedMethod, count: int, decay: float) -> None:
    """Train towards a prediction that the base does not make."""
    optimizer = torch.optim.AdamW(
        [p for group in attached.groups for p in group.parameters],
        lr=attached.groups[0].learning_rate,
        weight_decay=decay,
    )
    for _ in range(count):
        (prediction(stage) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        attached.after_step()


@every_family
def test_only_the_rows_move(family: Family) -> None:
    """Under strong weight decay the base keeps its bits, and every row of every encoder moves."""
    stage = family.stages[0]
    before = bits(stage)
    stage.parts[stage.denoiser].requires_grad_(requires_grad=True)
    attached = attach(stage, vectors=2, learning_rate=0.1)
    assert not any(parameter.requires_grad for module in stage.parts.values() for parameter in module.parameters())
    start = {part: rows_ND.detach().clone() for part, rows_ND in attached.tokens[0].rows.items()}
    steps(stage, attached, 3, decay=0.5)
    assert same(before, bits(stage))
    for part, rows_ND in attached.tokens[0].rows.items():
        cosine_N = torch.nn.functional.cosine_similarity(rows_ND, start[part])
        assert (cosine_N < 1 - 1e-4).all(), "pull and decay change norms alone: training turns a row"
    attached.detach()
    assert same(before, bits(stage))


@stable_diffusion
def test_a_step_lowers_the_loss(family: Family) -> None:
    stage = family.stages[0]
    attached = attach(stage, learning_rate=0.02)
    first = (prediction(stage) - 1).square().mean().item()
    steps(stage, attached, 10, decay=0.01)
    assert (prediction(stage) - 1).square().mean().item() < first


@every_family
def test_a_base_is_left_as_it_was(family: Family) -> None:
    """`base_only` and `detach` restore the base's bits; in between, the same rows train on."""
    stage = family.stages[0]
    with torch.no_grad():
        before = prediction(stage)
        attached = moved(attach(stage, vectors=3))
        rows, trained = dict(attached.tokens[0].rows), prediction(stage)
        assert not torch.equal(trained, before)
        with attached.base_only():
            assert torch.equal(prediction(stage), before)
        assert torch.equal(prediction(stage), trained)
        assert all(attached.tokens[0].rows[part] is rows[part] for part in rows)
        attached.tokens[0].rows["text_encoder"].add_(1)
        assert not torch.equal(prediction(stage), trained), "the text encoder reads rows that move afterwards"
        attached.detach()
        assert torch.equal(prediction(stage), before)


@stable_diffusion
def test_an_error_in_the_block_leaves_the_token_applied(family: Family) -> None:
    attached = moved(attach(family.stages[0]))
    trained = generated(family)
    with pytest.raises(ZeroDivisionError), attached.base_only():
        _ = 1 / 0
    assert np.array_equal(generated(family), trained)


@pytest.mark.parametrize(("name", "vectors"), [("sd", 1), ("sd", 3), ("sdxl", 3), ("sd3", 2), ("flux", 1)])
def test_the_file_restores_to_the_same_pixels(
    name: str, bases: Mapping[str, Path], family: Family, vectors: int
) -> None:
    before = generated(family)
    attached = moved(attach(family.stages[0], vectors=vectors))
    trained, (tensors, metadata) = generated(family), attached.export()
    fresh = opened(bases, name)
    applied = restore(fresh.stages[0], tensors, metadata)
    assert np.array_equal(generated(fresh), trained)
    assert not np.array_equal(before, trained)
    applied.remove()
    assert np.array_equal(generated(fresh), before)


@pytest.mark.parametrize(("name", "vectors"), [("sd", 1), ("sd", 3), ("sdxl", 1), ("sdxl", 2), ("flux", 2)])
def test_diffusers_reads_the_file(
    name: str, bases: Mapping[str, Path], family: Family, vectors: int, tmp_path: Path
) -> None:
    """`load_textual_inversion` gives our image; of two encoders, each is given its rows."""
    tensors, metadata = moved(attach(family.stages[0], vectors=vectors)).export()
    file = tmp_path / "token.safetensors"
    save_file(tensors, file, metadata=metadata)
    pipeline: Any = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True, dtype=torch.float32)
    if name == "sdxl":
        rows = load_file(file)
        pipeline.load_textual_inversion(
            rows["clip_l"], token=SUBJECT.token, text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
        )
        pipeline.load_textual_inversion(
            rows["clip_g"], token=SUBJECT.token, text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
        )
    else:
        pipeline.load_textual_inversion(tmp_path, weight_name=file.name)
    theirs = generated_by(pipeline, name, gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)]))
    assert np.abs(generated(family) - theirs).max() <= 1.01


def generated_by(pipeline: Any, name: str, noise: Tensor) -> np.ndarray:
    """Generate the same image with diffusers' own pipeline."""
    options: dict[str, Any] = {
        "num_inference_steps": KNOBS.steps,
        "guidance_scale": KNOBS.guidance,
        "height": 64,
        "width": 64,
    }
    if name == "flux":
        from mascot.models.families.flux import pack

        options |= {"latents": pack(noise), "max_sequence_length": 32}
    else:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        options |= {"latents": noise, "negative_prompt": ""}
    return np.asarray(pipeline(PROMPT, output_type="np", **options).images[0], np.float64) * 255


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_strength_goes_from_the_base_through_the_initial_words_to_the_trained(family: Family) -> None:
    """0 is the base's bits, 1 the trained ones; others lie on the line from the initial rows."""
    stage = family.stages[0]
    before, initial = generated(family), generated(family, PROMPT.replace("sks dog", "dog dog"))
    attached = moved(attach(stage))
    tensors, metadata = attached.export()
    trained = generated(family)
    attached.detach()
    applied = restore(stage, tensors, metadata)
    for strength, expected in ((0.0, before), (1.0, trained), (1e-7, initial), (0.0, before), (1.0, trained)):
        applied.scale(dict.fromkeys(stage.vocabularies, strength))
        assert np.abs(generated(family) - expected).max() <= (1 if strength == 1e-7 else 0), strength
    applied.scale(dict.fromkeys(stage.vocabularies, 2.0))
    vocabulary: Any = stage.vocabularies["text_encoder"]
    ids = vocabulary.tokenizer(vocabulary.rewrite(["sks"]), return_tensors="pt").input_ids
    encoder: Any = stage.parts["text_encoder"]
    torch.testing.assert_close(
        encoder.get_input_embeddings()(ids)[0, 1:2],
        2 * applied.tokens[0].trained["text_encoder"] - vocabulary.embeddings("dog"),
    )


def test_rows_start_from_the_initial_words() -> None:
    """Few embeddings are repeated in order, many are averaged in runs."""
    one, two, five = (torch.arange(n * 2.0).view(n, 2) for n in (1, 2, 5))
    assert torch.equal(initial_rows(two, 2), two)
    assert torch.equal(initial_rows(one, 3), one.expand(3, 2))
    assert torch.equal(initial_rows(two, 5), two[[0, 0, 0, 1, 1]])
    assert torch.equal(initial_rows(five, 2), torch.stack([five[:3].mean(0), five[3:].mean(0)]))
    assert initial_rows(two, 2).data_ptr() != two.data_ptr()
    with pytest.raises(UserError, match=r"method\.initial=dog"):
        initial_rows(torch.zeros(0, 2), 1)


@stable_diffusion
@pytest.mark.parametrize(
    ("initial", "subject", "words"),
    [
        ("red cat", SUBJECT, "red cat"),
        (None, SUBJECT, "dog"),
        (None, Subject("sks"), "sks"),
        (None, Subject("zwx"), "zwx"),
    ],
)
def test_the_initial_words_are_the_setting_the_noun_or_the_token(
    family: Family, initial: str | None, subject: Subject, words: str
) -> None:
    stage = family.stages[0]
    attached = attach(stage, subject, initial=initial, vectors=3)
    assert torch.equal(
        attached.tokens[0].rows["text_encoder"], initial_rows(stage.vocabularies["text_encoder"].embeddings(words), 3)
    )
    assert read_records(attached.export()[1])[0] == TokenRecord(
        token=subject.token, vectors=3, initial={"text_encoder": words}
    )


@stable_diffusion
def test_a_token_the_base_knows_can_be_trained(family: Family) -> None:
    """It may be in the vocabulary already, several tokens long, or in capitals."""
    stage = family.stages[0]
    for token in ("snow", "Zwx", "photo of"):
        before = generated(family)
        attached = moved(attach(stage, Subject(token), vectors=2))
        prompt = f"a {token} dog"
        trained, exported = generated(family, prompt), attached.export()
        attached.detach()
        applied = restore(stage, *exported)
        assert np.array_equal(generated(family, prompt), trained), token
        applied.remove()
        assert np.array_equal(generated(family), before)


def test_norms_are_pulled_geometrically() -> None:
    """The pull is a share of the log norm; it keeps directions and zeros, and at 0 all bits."""
    rows_ND = nn.Parameter(torch.tensor([[8.0, 0.0], [0.0, 0.5], [0.0, 0.0]]))
    pull_norms(rows_ND, 2.0, 0.5)
    torch.testing.assert_close(rows_ND.data, torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    pull_norms(rows_ND, 2.0, 1.0)
    torch.testing.assert_close(rows_ND.data, torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    before = rows_ND.detach().clone()
    pull_norms(rows_ND, 3.0, 0.0)
    assert torch.equal(rows_ND, before)


@stable_diffusion
def test_the_norm_stays_near_the_vocabularys(family: Family) -> None:
    """Without the pull, a large learning rate moves it far away."""
    stage = family.stages[0]
    far: dict[float, float] = {}
    for share in (0.0, 0.5):
        attached = attach(stage, learning_rate=0.05, norm_pull=share)
        steps(stage, attached, 12, decay=0.0)
        length = float(attached.tokens[0].rows["text_encoder"].detach().norm())
        far[share] = abs(math.log(length / stage.vocabularies["text_encoder"].typical_norm))
        attached.detach()
    assert far[0.0] > 1.5
    assert far[0.5] < 1


@every_family
def test_the_phase_says_what_is_trained(family: Family) -> None:
    stage, settings = family.stages[0], TextualInversionSettings(learning_rate=0.1)
    (scheduled,) = settings.phases
    assert scheduled.phase is settings
    attached = attach(stage, learning_rate=0.1)
    assert [(group.part, group.learning_rate) for group in attached.groups] == [
        (part, 0.1) for part in settings.trains(stage)
    ]
    assert settings.trains(stage) == tuple(part for part in stage.parts if part != stage.denoiser)
    assert all(rows_ND.requires_grad and rows_ND.dtype == torch.float32 for rows_ND in attached.tokens[0].rows.values())
    assert set(attached.export()[0]) == ({"sks"} if len(attached.tokens[0].rows) == 1 else {"clip_l", "clip_g"})
    assert not attached.changes_base
    assert not attached.companions()


@pytest.mark.parametrize("name", ["deepfloyd_if"])
def test_a_base_without_trainable_embeddings_is_refused(family: Family) -> None:
    with pytest.raises(UserError, match="choose another method"):
        attach(family.stages[0])
    with pytest.raises(UserError, match="choose another method"):
        restore(
            family.stages[0],
            {"sks": torch.zeros(1, WIDTH)},
            write_records([TokenRecord(token=SUBJECT.token, vectors=1, initial={})]),
        )


RECORD = TokenRecord(token=SUBJECT.token, vectors=1, initial={"text_encoder": "dog"})


@stable_diffusion
@pytest.mark.parametrize(
    ("tensors", "metadata", "sentence"),
    [
        ({"sks": torch.zeros(1, WIDTH)}, {}, "does not say which token"),
        ({"sks": torch.zeros(1, WIDTH)}, {RECORDS_KEY: "{"}, "metadata is damaged"),
        (
            {"sks": torch.zeros(1, WIDTH)},
            {RECORDS_KEY: '{"token": " ", "vectors": 1, "initial": {}}'},
            "metadata is damaged",
        ),
        ({}, write_records([RECORD]), "holds nothing, and sks"),
        ({"zwx": torch.zeros(1, WIDTH)}, write_records([RECORD]), "holds zwx"),
        ({"sks": torch.zeros(2, WIDTH)}, write_records([RECORD]), "does not fit"),
        ({"sks": torch.zeros(1, WIDTH + 1)}, write_records([RECORD]), "does not fit"),
        ({"sks": torch.zeros(1, WIDTH), "x": torch.zeros(1)}, write_records([RECORD]), "does not fit"),
        (
            dict.fromkeys(["clip_l", "clip_g"], torch.zeros(1, WIDTH)),
            write_records([RECORD.model_copy(update={"initial": {"text_encoder": "dog", "text_encoder_2": "dog"}})]),
            "trained its token in text_encoder and text_encoder_2, this base has text_encoder;",
        ),
        (
            {"sks": torch.zeros(1, WIDTH)},
            write_records([RECORD.model_copy(update={"initial": {"text_encoder": " "}})]),
            "no token of their own",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    family: Family, tensors: dict[str, Tensor], metadata: dict[str, str], sentence: str
) -> None:
    stage = family.stages[0]
    with torch.no_grad():
        before = prediction(stage)
        with pytest.raises(UserError, match=sentence) as refusal:
            restore(stage, tensors, metadata)
        assert "\n" not in str(refusal.value)
        assert torch.equal(prediction(stage), before)


def test_rows_go_through_a_file_unchanged() -> None:
    """The names differ with the number of text encoders."""
    rows = {part: torch.randn(2, WIDTH, generator=seeded(part)) for part in ("text_encoder", "text_encoder_2")}
    assert same(rows, rows_from_file(rows_to_file(rows, "sks"), "sks", {part: torch.zeros(2, WIDTH) for part in rows}))


@pytest.mark.parametrize(
    "wrong", [{"vectors": 0}, {"vectors": 65}, {"initial": " "}, {"learning_rate": 0}, {"norm_pull": 1.1}, {"rank": 4}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TextualInversionSettings(**wrong)
