"""Laws of what families share: saving a stage, tokenizing prompts, dtypes of inputs."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from mascot.models.pipeline_files import Precision
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Family, Framing, Subject
from tiny.families import tiny_base
from tiny.single_files import tiny_single_file
from tiny.stable_diffusion import tiny_stable_diffusion

PROMPT = "a photo of a sks dog"
FRAMING = Framing(original=(64, 64), target=(64, 64))
NAMES = ("sd", "sdxl", "sd3", "flux")


@pytest.fixture(scope="module", params=NAMES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one family."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return tiny_stable_diffusion(folder) if request.param == "sd" else tiny_base(request.param, folder)


@pytest.fixture
def without_t5(tmp_path: Path) -> Path:
    """A base without its third text encoder, as people download it."""
    folder = tiny_base("sd3", tmp_path / "without")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for gone in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / gone)
    return folder


def loaded(folder: Path, precision: Precision = "fp32") -> Family:
    return load_family(str(folder), device="cpu", precision=precision)


def stage_of(family: Family) -> PipelineStage:
    stage = family.stages[0]
    assert isinstance(stage, PipelineStage)
    return stage


def generated(family: Family) -> np.ndarray:
    """One image as an array."""
    knobs = Knobs(steps=2, guidance=3.0, height=64, width=64)
    return np.asarray(next(iter(Generator(family).generate([ImageRequest(PROMPT, 5)], knobs))), np.float64)


def push(stage: PipelineStage) -> None:
    """Change every matrix of every part a little."""
    with torch.no_grad():
        for name, part in stage.parts.items():
            for number, weight in enumerate(p for p in part.parameters() if p.ndim == 2):
                weight.add_(0.02 * gaussian(weight.shape, [seeded("push", name, number)])[0].to(weight))


def dtypes(folder: Path) -> dict[str, set[torch.dtype]]:
    """The dtypes of each part's saved weights."""
    return {
        file.parent.name: {tensor.dtype for tensor in load_file(file).values()}
        for file in folder.glob("*/*.safetensors")
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_saved_stage_generates_what_the_stage_generates(base: Path, tmp_path: Path, precision: Precision) -> None:
    family = loaded(base, precision)
    stage, before = stage_of(family), generated(family)
    push(stage)
    trained = generated(family)
    assert np.abs(trained - before).max() > 0
    stage.save(tmp_path / "saved")
    assert np.array_equal(generated(loaded(tmp_path / "saved", precision)), trained)
    assert np.array_equal(generated(family), trained), "saving changes nothing"
    found = dtypes(tmp_path / "saved")
    assert found.pop("vae") == {torch.float32}
    assert set().union(*found.values()) == {stage.dtype}


def test_one_weight_changed_is_one_weight_saved(base: Path, tmp_path: Path) -> None:
    stage = stage_of(loaded(base))
    for part in stage.parts.values():
        next(part.parameters()).data.view(-1)[0] += 1
    stage.save(tmp_path / "saved")
    pipeline: Any = DiffusionPipeline.from_pretrained(tmp_path / "saved", local_files_only=True, dtype=torch.float32)
    original: Any = DiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    for name in [name for name, part in pipeline.components.items() if isinstance(part, nn.Module)]:
        theirs, ours = getattr(pipeline, name).state_dict(), getattr(original, name).state_dict()
        assert theirs.keys() == ours.keys()
        assert sum(int((theirs[key] != ours[key]).sum()) for key in ours) == (name in stage.parts), name
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_text_encoders_are_saved_under_the_names_that_other_tools_read(base: Path, tmp_path: Path) -> None:
    stage = stage_of(loaded(base))
    stage.save(tmp_path / "saved")
    for name in stage.encoders:
        names = set(load_file(tmp_path / "saved" / name / "model.safetensors")) - {"text_projection.weight"}
        assert {key.partition(".")[0] for key in names} == {"text_model"}


def test_a_base_without_its_t5_is_saved_without_it(without_t5: Path, tmp_path: Path) -> None:
    family = loaded(without_t5)
    stage_of(family).save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "text_encoder_3").exists()
    assert np.array_equal(generated(loaded(tmp_path / "saved")), generated(family))


def test_a_single_file_is_read_again_and_saved_whole(tmp_path: Path) -> None:
    family = loaded(tiny_single_file("one", tmp_path / "base.safetensors"))
    before = generated(family)
    stage_of(family).release_encoders(text=True)
    assert np.array_equal(generated(family), before)
    stage_of(family).save(tmp_path / "saved")
    assert np.array_equal(generated(loaded(tmp_path / "saved")), before)


def test_a_folder_that_holds_something_is_never_overwritten(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        stage_of(loaded(tiny_base)).save(tmp_path / "saved")
    assert [path.name for path in tmp_path.rglob("*")] == ["saved", "mine.txt"]


def test_a_part_that_is_wrapped_is_not_saved(tiny_base: Path, tmp_path: Path) -> None:
    """Wrappers must be removed before: a pipeline cannot hold them. A failure leaves nothing."""
    stage = stage_of(loaded(tiny_base))
    LoraSettings(rank=2).attach(stage, Subject("sks"), 0, None)
    with pytest.raises(RuntimeError, match="lora_A"):
        stage.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_train_in_float32_get_float32_inputs(base: Path, tmp_path: Path) -> None:
    """A bf16 base has float32 weights while all of it is trained; it is saved in bf16."""
    family = loaded(base, "bf16")
    stage: Any = stage_of(family)
    denoiser, before = stage.parts[stage.denoiser], generated(family)
    denoiser.float()
    assert stage.dtype_of(denoiser) == torch.float32
    assert 0 < np.abs(generated(family) - before).max() < 16, "another rounding"
    with torch.no_grad():
        conditioning = stage.condition([PROMPT], [FRAMING])
        prediction = stage.predict(torch.zeros(1, *stage.latent_shape(64, 64)), torch.tensor([500.0]), conditioning)
    assert prediction.dtype == torch.float32
    stage.save(tmp_path / "saved")
    assert dtypes(tmp_path / "saved")[stage.denoiser] == {torch.bfloat16}
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.float32}, "saving rounds no trained weight"
    assert np.array_equal(generated(loaded(tmp_path / "saved", "bf16")), before)


def test_quantized_weights_get_inputs_of_the_stages_dtype(tiny_base: Path) -> None:
    stage = stage_of(loaded(tiny_base, "bf16"))
    packed = nn.ParameterList(
        [nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False), nn.Parameter(torch.zeros(2))]
    )
    assert stage.dtype_of(packed) == torch.bfloat16


def test_a_lora_does_not_decide_the_dtype_of_a_denoisers_inputs(base: Path) -> None:
    """Its weights are float32 in a bf16 base."""
    stage = stage_of(loaded(base, "bf16"))
    LoraSettings(rank=2, layers="all").attach(stage, Subject("sks"), 0, None)
    assert stage.dtype_of(stage.parts[stage.denoiser]) == torch.bfloat16


@pytest.mark.parametrize("length", [None, 12])
def test_ids_are_the_tokenizers_own_padded_and_cut(base: Path, length: int | None) -> None:
    stage = stage_of(loaded(base))
    for name, tokenizer in stage.tokenizers.items():
        size = length or tokenizer.model_max_length
        ids = stage.token_ids(name, [PROMPT, "dog " * 100, ""], length)
        assert ids.shape == (3, size)
        for row, prompt in zip(ids.tolist(), [PROMPT, "dog " * 100, ""], strict=True):
            own = tokenizer(prompt, truncation=True, max_length=size).input_ids
            assert row == own + [tokenizer.pad_token_id] * (size - len(own))
        count, read, _ = stage.truncations_in(PROMPT, {name: 4})[name]
        assert (count, read) == (len(tokenizer(PROMPT).input_ids), 4)
        assert stage.truncations_in(PROMPT, {name: count}) == {}


def test_only_clips_have_vocabularies(base: Path) -> None:
    stage = stage_of(loaded(base))
    assert set(stage.vocabularies) == set(stage.parts) - {stage.denoiser}  # pyright: ignore[reportAttributeAccessIssue]
    assert stage.vocabularies == stage.vocabularies, "made once"


def test_an_added_token_is_read_and_counted_by_its_encoder_alone(base: Path) -> None:
    stage: Any = stage_of(loaded(base))
    name, vocabulary = next(iter(stage.vocabularies.items()))
    before = {each: stage.token_ids(each, [PROMPT]) for each in stage.tokenizers}
    before_adding, (counted, *_) = stage.condition([PROMPT], [FRAMING]), stage.truncations_in(PROMPT, {name: 4})[name]
    vocabulary.add("sks", nn.Parameter(torch.ones(3, vocabulary.embeddings("dog").shape[1])))
    changed = [each for each in stage.tokenizers if not torch.equal(stage.token_ids(each, [PROMPT]), before[each])]
    assert changed == [name]
    assert stage.truncations_in(PROMPT, {name: 4})[name][0] == counted + 2, "three tokens where one was"
    added = stage.condition([PROMPT], [FRAMING])
    assert any(not torch.equal(added[key], before_adding[key]) for key in added)
    vocabulary.remove()
    removed = stage.condition([PROMPT], [FRAMING])
    assert all(torch.equal(removed[key], before_adding[key]) for key in removed)


def test_vocabularies_are_dropped_with_their_encoder(tiny_base: Path) -> None:
    """An encoder that is read again has a new vocabulary; counting tokens loads no encoder."""
    stage = stage_of(loaded(tiny_base))
    first = stage.vocabularies["text_encoder"]
    encoder = weakref.ref(stage.text_encoder("text_encoder"))
    stage.release_encoders(text=False)
    assert stage.vocabularies["text_encoder"] is first
    stage.release_encoders(text=True)
    del first
    gc.collect()
    assert encoder() is None
    assert stage.truncations_in(PROMPT, {"text_encoder": 4})["text_encoder"][:2] == (8, 4)
    assert stage.loaded == {}
    assert stage.vocabularies["text_encoder"].embeddings("dog").shape == (1, 32)


def test_most_stages_have_no_image_conditioning(base: Path) -> None:
    assert stage_of(loaded(base)).image_conditioning(torch.zeros(1, 4, 8, 8), [seeded(0)]) == {}


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_base_that_lacks_a_text_encoder_is_refused(tmp_path: Path, part: str) -> None:
    """Only an encoder that its family calls optional may be missing."""
    folder = tiny_base("sdxl", tmp_path / "base")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {part: [None, None]}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{part} is incomplete"):
        loaded(folder)
