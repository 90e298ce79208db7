"""Weighted words and long prompts: their conditioning against computations of our own.

What is checked: the formula of weights, chunks as transformers encodes them one by one, exactness
of everything without weights, and that images depend on their own prompts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mascot.diffusion.noise import seeded
from mascot.diffusion.prompt_chunks import Chunk, weigh
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.generation.prompts.prompt_reading import PromptReader
from mascot.models.families.registry import load_family, reads_chunks
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Conditioning, Family, Framing
from tiny.families import CASCADES, MAKERS, tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion

FRAMING = Framing(original=(64, 64), target=(64, 64))
CLIPS = {"sd": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"], "sd3": ["text_encoder", "text_encoder_2"]}
"""Family -> the text encoders whose states are weighted."""
LONG = ", ".join(["a red dog in the snow"] * 20)


@pytest.fixture(scope="module", params=list(CLIPS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family_of(request.param, tmp_path_factory.mktemp("base"))


def family_of(name: str, folder: Path) -> Family:
    """Load a tiny base of a family."""
    base = tiny_stable_diffusion(folder / "base") if name == "sd" else tiny_base(name, folder / "base")
    return load_family(str(base), device="cpu", precision="fp32")


def stage_of(family: Family) -> Any:
    """The first stage, with the text encoders that tests run by themselves."""
    stage = family.stages[0]
    assert isinstance(stage, PipelineStage)
    return stage


@torch.no_grad()
def condition(family: Family, prompt: str, negative: str = "") -> Conditioning:
    """A prompt's conditioning as the generator computes it."""
    return PromptReader(family).condition(family.stages[0], [prompt], negative, FRAMING)[0][prompt]


@torch.no_grad()
def plain(family: Family, text: str) -> Conditioning:
    """A text's conditioning as training computes it."""
    return family.stages[0].condition([text], [FRAMING])


def assert_equal(one: Conditioning, other: Conditioning) -> None:
    """Check that two conditionings are the same to the bit."""
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def encode_ids(family: Family, name: str, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States and pooled output of one text encoder for the tokens of one chunk, by transformers."""
    stage = stage_of(family)
    tokenizer = stage.tokenizers[name]
    whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    whole += [tokenizer.pad_token_id] * (77 - len(whole))
    output = stage.text_encoder(name)(input_ids=torch.tensor([whole]), output_hidden_states=True)
    states = output.last_hidden_state if family.name == "sd" else output.hidden_states[-2]
    return states, output.text_embeds if "text_embeds" in output else output.pooler_output


def clip_part(family: Family, states: Tensor, chunks: int) -> Tensor:
    """The CLIPs' part of what the denoiser reads."""
    clips = sum(stage_of(family).text_encoder(name).config.hidden_size for name in CLIPS[family.name])
    return states[:, : 77 * chunks, :clips]


@pytest.mark.parametrize("prompt", ["a red dog", "a (red:1) dog", "[(a red)] dog", "a (red:1.0) (dog:1)"])
def test_a_weight_of_1_is_no_weight_bit_for_bit(family: Family, prompt: str) -> None:
    assert_equal(condition(family, prompt), plain(family, "a red dog"))


def test_escapes_and_lone_brackets_are_letters(family: Family) -> None:
    assert_equal(condition(family, r"a \(red\) dog"), plain(family, "a (red) dog"))
    assert_equal(condition(family, "a (red dog"), plain(family, "a (red dog"))


def test_weights_multiply_states_and_keep_their_mean(family: Family) -> None:
    """Each encoder by itself: z' = w z mean(z) / mean(w z); pooled outputs stay as they are."""
    got = condition(family, "a (red:1.5) dog in [the snow]")
    weight_N = torch.ones(77)
    weight_N[2], weight_N[5], weight_N[6] = 1.5, 1 / 1.1, 1 / 1.1
    expected: list[Tensor] = []
    for name in CLIPS[family.name]:
        ids = stage_of(family).tokenizers[name]("a red dog in the snow", add_special_tokens=False).input_ids
        assert len(ids) == 6
        z_BND, _ = encode_ids(family, name, ids)
        weighted = z_BND * weight_N[None, :, None]
        factor = z_BND.mean() / weighted.mean()
        expected.append(weighted * factor if factor > 0 else weighted)
    states = clip_part(family, got["encoder_hidden_states"], 1)
    assert torch.allclose(states, torch.cat(expected, dim=-1), atol=1e-5)
    without = plain(family, "a red dog in the snow")
    assert not torch.allclose(states, clip_part(family, without["encoder_hidden_states"], 1), atol=1e-3)
    for name in without.keys() - {"encoder_hidden_states"}:
        assert torch.equal(got[name], without[name])
    if family.name == "sd3":  # the T5 reads the words without their weights
        assert torch.equal(got["encoder_hidden_states"][:, 77:], without["encoder_hidden_states"][:, 77:])


def test_the_mean_is_kept_unless_it_would_change_its_sign() -> None:
    states_BND = torch.rand(1, 6, 4, generator=seeded(0))
    weighted = weigh(states_BND, Chunk((1, 2, 3), (1.0, 2.0, 0.0)))
    assert torch.isclose(weighted.mean(), states_BND.mean())
    assert torch.allclose(weighted[0, 2] / weighted[0, 1], 2 * states_BND[0, 2] / states_BND[0, 1])
    assert not weighted[0, 3].any()
    states_BND[0, 2] = -0.5 * states_BND.sum() / 4  # twice that makes the sum negative or nought
    flipped = weigh(states_BND, Chunk((1, 2), (1.0, 3.0)))
    assert torch.equal(flipped[0, 0], states_BND[0, 0])


def test_long_prompts_are_the_chunks_that_transformers_encodes(family: Family) -> None:
    got = condition(family, LONG)
    states: list[Tensor] = []
    pooled: list[Tensor] = []
    for name in CLIPS[family.name]:
        tokenizer = stage_of(family).tokenizers[name]
        ids = tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
        assert len(ids) == 139  # 20 times 6 words, and 19 commas: chunks end after a comma
        parts = [ids[:70], ids[70:]]
        assert tokenizer.decode([parts[0][-1]]).strip() == ","
        encoded = [encode_ids(family, name, part) for part in parts]
        states.append(torch.cat([one for one, _ in encoded], dim=1))
        pooled.append(encoded[0][1])
    assert torch.equal(clip_part(family, got["encoder_hidden_states"], 2), torch.cat(states, dim=-1))
    if family.name == "sdxl":
        assert torch.equal(got["text_embeds"], pooled[-1])
    if family.name == "sd3":
        assert torch.equal(got["pooled_projections"], torch.cat(pooled, dim=-1))
        whole = plain(family, LONG)["encoder_hidden_states"]
        assert torch.equal(got["encoder_hidden_states"][:, 2 * 77 :], whole[:, 77:])


def test_break_begins_a_chunk_and_the_shorter_prompt_is_padded_with_empty_ones(family: Family) -> None:
    first, second, empty = (plain(family, text)["encoder_hidden_states"] for text in ("a red dog", "snow", ""))
    got = condition(family, "a red dog BREAK snow")["encoder_hidden_states"]
    joined = torch.cat([clip_part(family, one, 1) for one in (first, second)], dim=1)
    assert torch.equal(clip_part(family, got, 2), joined)
    beside = condition(family, "a red dog", negative="a BREAK b BREAK c")["encoder_hidden_states"]
    joined = torch.cat([clip_part(family, one, 1) for one in (first, empty, empty)], dim=1)
    assert torch.equal(clip_part(family, beside, 3), joined)


def test_a_learned_token_of_several_rows_has_one_weight_and_stays_in_one_chunk(family: Family) -> None:
    stage = stage_of(family)
    rows = {name: nn.Parameter(torch.randn(3, 32, generator=seeded(name)) * 0.1) for name in CLIPS[family.name]}
    for name, rows_ND in rows.items():
        stage.vocabularies[name].add("zwx", rows_ND)
    try:
        reader = PromptReader(family)
        assert reader.count(stage, " ".join(["dog"] * 73 + ["zwx"])) == 2
        assert reader.count(stage, " ".join(["dog"] * 72 + ["zwx"])) == 1
        assert [len(group) for group in stage.token_groups("text_encoder", "a Zwx dog")] == [1, 3, 1]
        got = condition(family, "a (zwx dog:1.5) hat")["encoder_hidden_states"]
        without = plain(family, "a zwx dog hat")["encoder_hidden_states"]
        ratio = clip_part(family, got, 1) / clip_part(family, without, 1)
        per_token = ratio[0, :, 0] / ratio[0, 0, 0]
        assert torch.allclose(per_token[:8], torch.tensor([1, 1, 1.5, 1.5, 1.5, 1.5, 1, 1]), atol=1e-3)
    finally:
        for name in rows:
            stage.vocabularies[name].remove()


def images(generator: Generator, prompts: Sequence[str], knobs: Knobs) -> list[bytes]:
    """The pixels of one image of each prompt."""
    requests = [ImageRequest(prompt, 3) for prompt in prompts]
    return [image.tobytes() for image in generator.generate(requests, knobs)]


KNOBS = Knobs(steps=2, guidance=3, height=64, width=64)


def test_an_image_does_not_depend_on_the_length_of_others_in_its_batch(family: Family) -> None:
    generator = Generator(family, batch_size=1)
    prompts = ["a red dog", LONG, "a (red:1.6) dog"]
    alone = [images(generator, [prompt], KNOBS)[0] for prompt in prompts]
    assert len(set(alone)) == 3
    assert images(Generator(family, batch_size=8), prompts[:2], KNOBS) == alone[:2]
    assert images(generator, ["a red dog"], KNOBS.model_copy(update={"negative": LONG})) != alone[:1]
    letters = Generator(family, typed=False, batch_size=1)
    assert images(letters, ["a red dog"], KNOBS) == alone[:1]
    assert images(letters, prompts[1:2], KNOBS) != alone[1:2]


def test_without_guidance_the_negative_prompt_changes_nothing(family: Family) -> None:
    unguided = KNOBS.model_copy(update={"guidance": 1.0})
    generator = Generator(family)
    plain_images = images(generator, ["a red dog"], unguided)
    assert images(generator, ["a red dog"], unguided.model_copy(update={"negative": LONG})) == plain_images


def test_the_settings_say_what_is_done(family: Family) -> None:
    generator = Generator(family)
    knobs = generator.with_defaults(KNOBS.model_copy(update={"negative": "(blurry:1.2)"}))

    def text(prompt: str, knobs: Knobs) -> list[str]:
        facts = generator.reading(prompt, knobs).facts
        return settings_text(ImageRequest(prompt, 0), knobs, (64, 64), "base", None, facts=facts).splitlines()

    prompt, negative, line = text(f"({LONG}:1.1)", knobs)
    assert (prompt, negative) == (f"({LONG}:1.1)", "Negative prompt: (blurry:1.2)")
    assert line.endswith("Emphasis: Original, Prompt chunks: 2")
    assert "Emphasis" not in text(r"a dog \(red\)", KNOBS)[-1]
    assert not generator.reading("a dog", KNOBS).key
    for changed in (r"a dog \(red\)", "(dog)", LONG, "a BREAK b"):
        assert generator.reading(changed, KNOBS).key, changed
        assert not Generator(family, typed=False).reading(changed, KNOBS).key


@pytest.mark.parametrize("name", ["flux", "deepfloyd_if", "deepfloyd_if_cascade"])
def test_families_that_read_no_weights_refuse_them_with_a_remedy_that_works(tmp_path: Path, name: str) -> None:
    family = family_of(name, tmp_path)
    assert set(CLIPS) | {"flux", "deepfloyd_if"} == {"sd", *MAKERS}
    assert name in {*MAKERS, *CASCADES}
    assert not reads_chunks(str(tmp_path / "base") if name in MAKERS else str(tiny_base(name, tmp_path / "again")))
    generator = Generator(family)
    for prompt, says in (("a (red:1.3) dog", "reads no weights"), ("a dog BREAK a hat", "reads no chunks")):
        with pytest.raises(UserError, match=says):
            next(generator.generate([ImageRequest(prompt, 0)], KNOBS))
        with pytest.raises(UserError, match=says):
            generator.reading("a dog", KNOBS.model_copy(update={"negative": prompt, "true_guidance": 2.0}))
    escaped = condition(family, r"a \(red\) dog")
    assert_equal(escaped, plain(family, "a (red) dog"))
