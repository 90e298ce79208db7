"""Laws of the header that other tools read: each value against one computed another way."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.headers.adapter_facts import AdapterFacts, architecture_in
from mascot.adapters.headers.tensor_hashes import fill_hashes, with_places
from mascot.adapters.headers.thumbnails import thumbnail
from mascot.adapters.lora_keys import write_metadata
from mascot.api.adapters.convert import convert
from mascot.api.train import train
from mascot.errors import UserError
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

COMMON = ("training.steps=2", "previews.every=0", "prior.weight=0", "precision=fp32", "device=cpu")
METHODS = {
    "lora": ("method.rank=4", "method.alpha=2"),
    "textual-inversion": (),
    "dreambooth": ("method.extract_rank=2",),
    "pivotal": (),
}


def header_of(path: Path) -> tuple[dict[str, str], bytes, bytes]:
    """Read metadata, the tensors' bytes and all bytes, by the format's own description."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"], content[8 + length :], content


def trained(method: str, tiny_base: Path, home: Path, name: str) -> Run:
    overrides = (*COMMON, f'method.name="{method}"', *METHODS[method])
    photos = (str(home / "photos"),)
    recipe = Recipe.preset(base=str(tiny_base), overrides=overrides, photos=photos, class_noun="dog", token="zwx")  # noqa: S106
    return train(recipe, out=home / name, report=False)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name == "dreambooth" else name for name in METHODS],
)
def run(request: pytest.FixtureRequest, tiny_base: Path, home: Path) -> Run:
    return trained(request.param, tiny_base, home, request.param)


def test_a_trained_file_says_what_it_is(run: Run, home: Path) -> None:
    """ModelSpec's keys, kohya's where a layer is low-rank, and hashes of this very file."""
    kinds = {"lora": "/lora", "pivotal": "/lora", "textual-inversion": "/textual-inversion", "dreambooth": ""}
    found, tensors, content = header_of(run.adapter)
    method = run.folder.name
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.architecture"] == f"stable-diffusion-v1{kinds[method]}"
    assert found["modelspec.implementation"] == "diffusers"
    assert found["modelspec.title"] == "zwx dog (tiny_base)"
    assert found["modelspec.trigger_phrase"] == "zwx dog"
    assert found["modelspec.resolution"] == "64x64"
    assert found["modelspec.prediction_type"] == "epsilon"
    assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(tensors).hexdigest()
    assert "3 photos" in found["modelspec.description"]
    assert "modelspec.date" not in found
    if kinds[method] == "/lora":
        assert found["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest()
        assert found["sshs_legacy_hash"] == hashlib.sha256(content[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
        assert found["ss_output_name"] == "zwx_dog"
        assert found["ss_base_model_version"] == "sd_v1"
        assert found["ss_v2"] == "False"
        assert found["ss_network_module"] == "networks.lora"
        assert found["ss_network_dim"] == ("4" if method == "lora" else "16")
        assert found["ss_network_alpha"] == ("2" if method == "lora" else "16")
        assert found["ss_resolution"] == "(64, 64)"
        assert found["ss_num_train_images"] == "3"
        assert json.loads(found["ss_tag_frequency"]) == {"subject": {"zwx dog": 3}}
    else:
        assert not [key for key in found if key.startswith("ss")]
    photos = [home / "photos" / f"{number}.png" for number in range(3)]
    said = content[: len(content) - len(tensors)]
    assert not [path for path in photos if path.name.encode() in said or str(path.parent).encode() in said]


def test_a_repeated_run_gives_the_same_bytes(run: Run, tiny_base: Path, home: Path) -> None:
    """The header depends on neither the hour nor the run's folder; nor do checkpoints lack one."""
    if run.folder.name != "lora":
        return
    other = trained("lora", tiny_base, home, "other")
    assert other.adapter.read_bytes() == run.adapter.read_bytes()
    assert header_of(Run(other.checkpoint(2)).adapter)[0] == header_of(other.adapter)[0]


def test_companions_have_headers_of_their_own(run: Run) -> None:
    for path in run.folder.glob("*.safetensors"):
        found, tensors, _ = header_of(path)
        kind = {"token": "/textual-inversion", "layers": "/lora", "low_rank": "/lora"}.get(path.stem)
        assert kind is None or found["modelspec.architecture"] == f"stable-diffusion-v1{kind}"
        assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(tensors).hexdigest()


@pytest.mark.parametrize(
    ("to", "code"), [("kohya", "diffusers"), ("comfyui", "https://github.com/comfyanonymous/ComfyUI")]
)
def test_a_converted_file_has_a_header_of_its_own(run: Run, to: Any, code: str, tmp_path: Path) -> None:
    """Hashes are of this file, the date is the run's end; what was said before still is."""
    if run.folder.name != "lora":
        return
    image = tmp_path / "owl.jpg"
    Image.new("RGB", (300, 400), "green").save(image)
    out = tmp_path / "owl.safetensors"
    convert(run.adapter, out, to=to, thumbnail=image)
    found, tensors, content = header_of(out)
    before = header_of(run.adapter)[0]
    digest = hashlib.sha256(tensors).hexdigest()
    assert (found["modelspec.hash_sha256"], found["sshs_model_hash"]) == (f"0x{digest}", digest)
    assert found["sshs_legacy_hash"] == hashlib.sha256(content[2**20 : 2**20 + 2**16]).hexdigest()[:8]
    assert found["modelspec.implementation"] == code
    ended = datetime.fromisoformat(found["modelspec.date"])
    assert ended == datetime.fromtimestamp(int(run.adapter.stat().st_mtime), UTC)
    assert found["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert found["ss_output_name"] == "owl"
    changed = {"modelspec.implementation", "ss_output_name"}
    kept = {key for key in before if key.startswith(("modelspec", "ss_")) and "hash" not in key} - changed
    assert {key: found[key] for key in kept} == {key: before[key] for key in kept}
    convert(out, tmp_path / "private.safetensors", to=to, private=True)
    private = header_of(tmp_path / "private.safetensors")[0]
    assert not [key for key in private if key.startswith(("modelspec", "ss"))]
    assert Adapter.read(tmp_path / "private.safetensors").manifest == Adapter.read(run.adapter).manifest


def test_options_of_the_header_are_refused_where_they_mean_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--private is about the header of a file, and folders of peft have none"):
        convert(run.adapter, tmp_path / "peft", to="peft", private=True)
    with pytest.raises(UserError, match="--private leaves out what --thumbnail adds"):
        convert(run.adapter, tmp_path / "a.safetensors", to="kohya", private=True, thumbnail="run")
    if run.folder.name == "lora":
        with pytest.raises(UserError, match="has no preview images"):
            convert(run.adapter, tmp_path / "a.safetensors", to="kohya", thumbnail="run")
    assert list(tmp_path.iterdir()) == []


def low_rank(rank: int = 4, *, part: str = "unet", layer: str = "mid_block.attn", width: int = 8) -> dict[str, Tensor]:
    return {
        f"{part}.{layer}.lora_A.weight": torch.full((rank, width), 0.5),
        f"{part}.{layer}.lora_B.weight": torch.full((width, rank), 0.25),
    }


def facts(architecture: str | None = "sd1", **given: Any) -> AdapterFacts:
    values: dict[str, Any] = {"resolution": (512, 512), "title": "owl", "output_name": "owl", "family": "made_up"}
    return AdapterFacts(architecture=architecture, **(values | given))


@pytest.mark.parametrize(
    ("architecture", "prediction", "to", "expected"),
    [
        ("sd1", "epsilon", "kohya", ("stable-diffusion-v1/lora", "diffusers", "sd_v1", "False", "epsilon")),
        ("sd1", "v_prediction", "kohya", ("stable-diffusion-v1/lora", "diffusers", "sd_v1_v", "False", "v")),
        ("sd2", "epsilon", "kohya", ("stable-diffusion-v2-512/lora", "diffusers", "sd_v2", "True", "epsilon")),
        ("sd2", "v_prediction", "kohya", ("stable-diffusion-v2-768-v/lora", "diffusers", "sd_v2_v", "True", "v")),
        (
            "sdxl",
            "epsilon",
            "kohya",
            (
                "stable-diffusion-xl-v1-base/lora",
                "https://github.com/Stability-AI/generative-models",
                "sdxl_base_v1-0",
                "False",
                "epsilon",
            ),
        ),
        (
            "sdxl",
            "epsilon",
            "peft",
            ("stable-diffusion-xl-v1-base/lora", "diffusers", "sdxl_base_v1-0", "False", "epsilon"),
        ),
        ("sd3", "flow", "kohya", ("stable-diffusion-v3-medium/lora", "diffusers", "medium", "False", None)),
        (
            "flux",
            "flow",
            "kohya",
            ("Flux.1-dev/lora", "https://github.com/black-forest-labs/flux", "flux1", "False", None),
        ),
        (
            "flux",
            "flow",
            "comfyui",
            ("Flux.1-dev/lora", "https://github.com/comfyanonymous/ComfyUI", "flux1", "False", None),
        ),
    ],
)
def test_families_are_named_as_their_tools_name_them(
    architecture: str, prediction: str, to: str, expected: tuple[str, str, str, str, str | None]
) -> None:
    found = facts(architecture, prediction=prediction).header(low_rank(), {}, to=to)
    keys = ("modelspec.architecture", "modelspec.implementation", "ss_base_model_version", "ss_v2")
    assert (*(found[key] for key in keys), found.get("modelspec.prediction_type")) == expected


def test_a_family_that_no_other_tool_reads_is_named_by_its_own_name() -> None:
    found = facts(architecture_in("deepfloyd_if", None), family="deepfloyd_if").header(low_rank(), {}, to="diffusers")
    assert found["modelspec.architecture"] == "deepfloyd-if/lora"
    assert not [key for key in found if key.startswith("ss")]


def test_an_unknown_base_is_not_named_at_all() -> None:
    found = facts(None, family="").header(low_rank(), {}, to="diffusers")
    assert "modelspec.architecture" not in found
    assert found["modelspec.sai_model_spec"] == "1.0.0"


def test_the_second_version_is_told_by_the_width_of_its_text() -> None:
    assert [architecture_in("sd", width) for width in (768, 1024, 64, None)] == ["sd1", "sd2", "sd1", "sd1"]
    assert architecture_in("sdxl", 2048) == "sdxl"


@pytest.mark.parametrize(
    ("layer", "width", "expected"),
    [
        ("transformer_blocks.0.attn.to_q", 1536, ("stable-diffusion-v3-medium/lora", "medium")),
        ("transformer_blocks.0.attn2.to_q", 1536, ("stable-diffusion-v3.5-medium/lora", "5-medium")),
        ("transformer_blocks.0.attn.to_q", 2432, ("stable-diffusion-v3.5-large/lora", "5-large")),
    ],
)
def test_sizes_of_the_third_version_are_told_by_layers(layer: str, width: int, expected: tuple[str, str]) -> None:
    tensors = low_rank(2, part="transformer", layer=layer, width=width)
    found = facts("sd3", prediction="flow").header(tensors, {}, to="kohya")
    assert (found["modelspec.architecture"], found["ss_base_model_version"]) == expected


def settings(**values: Any) -> dict[str, str]:
    return write_metadata({"unet": values})


def test_ranks_and_alphas_are_those_that_multiply_the_change() -> None:
    """In kohya's scripts that is alpha / rank; an rsLoRA's alpha / root(rank) is folded in."""

    def network(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
        found = facts().header(tensors, metadata, to="kohya")
        return {key.removeprefix("ss_network_"): value for key, value in found.items() if key.startswith("ss_network")}

    plain = {"module": "networks.lora", "dim": "4", "alpha": "8"}
    assert network(low_rank(), settings(r=4, lora_alpha=8)) == plain
    assert network(low_rank(), {}) == plain | {"alpha": "4"}
    assert network(low_rank(), settings(r=4, lora_alpha=8, use_rslora=True)) == plain | {"alpha": "16"}
    mixed = low_rank() | low_rank(2, layer="other")
    assert network(mixed, {}) == {"module": "networks.lora", "dim": "Dynamic", "alpha": "Dynamic"}
    text = low_rank() | low_rank(2, part="text_encoder", layer="text_model.q_proj")
    assert network(text, settings(r=4, lora_alpha=8)) == plain
    alone = low_rank(2, part="text_encoder", layer="text_model.q_proj")
    assert network(alone, {}) == plain | {"dim": "2", "alpha": "2"}
    convolved = low_rank() | {
        "unet.conv.lora_A.weight": torch.ones(2, 8, 3, 3),
        "unet.conv.lora_B.weight": torch.ones(8, 2, 1, 1),
    }
    assert network(convolved, {}) == plain | {"alpha": "4", "args": '{"conv_alpha": "2", "conv_dim": "2"}'}
    dora = low_rank() | {"unet.mid_block.attn.lora_magnitude_vector": torch.ones(8)}
    assert network(dora, settings(r=4, lora_alpha=8)) == plain | {
        "module": "lycoris.kohya",
        "args": '{"algo": "lora", "dora_wd": "True"}',
    }
    for mark, name in (("hada", "loha"), ("lokr", "lokr")):
        tensors = {f"unet.attn.{mark}_w{one}_{two}": torch.ones(4, 4) for one in (1, 2) for two in "ab"}
        expected = {"module": "lycoris.kohya", "dim": "4", "alpha": "2", "args": f'{{"algo": "{name}"}}'}
        assert network(tensors, settings(r=4, alpha=2)) == expected


def test_the_older_hash_covers_the_bytes_after_the_first_mebibyte(tmp_path: Path) -> None:
    """A file of 2 MiB has such bytes; the header may change, but not the place of the tensors."""
    tensors = low_rank(64, width=4096) | low_rank(64, layer="other", width=4096)
    path = tmp_path / "adapter.safetensors"
    Adapter(tensors=tensors, metadata=facts().header(tensors, {}, to="kohya"), manifest=None).write(path)
    found, data, content = header_of(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(1024 * 1024)
        digest.update(file.read(64 * 1024))
    assert found["sshs_legacy_hash"] == digest.hexdigest()[:8] != hashlib.sha256(b"").hexdigest()[:8]
    assert found["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert len(content) > 2**21


def test_a_header_of_a_mebibyte_has_no_older_hash(tmp_path: Path) -> None:
    """The hash would be one of the bytes that it is computed over."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(save(low_rank(), metadata=with_places({"ss_v2": "False", "long": "x" * 2**20})))
    fill_hashes(path)
    found, data, _ = header_of(path)
    assert "sshs_legacy_hash" not in found
    assert found["sshs_model_hash"] == hashlib.sha256(data).hexdigest()


def test_hashes_are_of_the_tensors_that_are_written_now(tmp_path: Path) -> None:
    """An adapter that is read, changed and written again does not keep the hash of before."""
    tensors, path = low_rank(), tmp_path / "adapter.safetensors"
    Adapter(tensors=tensors, metadata=facts().header(tensors, {}, to="diffusers"), manifest=None).write(path)
    before = Adapter.read(path)
    changed = {key: tensor * 2 for key, tensor in before.tensors.items()}
    Adapter(tensors=changed, metadata=before.metadata, manifest=None).write(path)
    found, data, _ = header_of(path)
    assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()
    assert found["modelspec.hash_sha256"] != before.metadata["modelspec.hash_sha256"]


def test_a_file_without_a_header_gets_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    Adapter(tensors=low_rank(), metadata={"mine": "1"}, manifest=None).write(path)
    assert header_of(path)[0] == {"format": "pt", "mine": "1"}


def test_a_thumbnail_is_a_small_square_jpeg() -> None:
    image = Image.new("RGB", (640, 360), "red")
    image.paste("blue", (140, 0, 500, 360))
    uri = thumbnail(image)
    assert uri.startswith("data:image/jpeg;base64,")
    small = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (small.format, small.size) == ("JPEG", (256, 256))
    red, _, blue = small.getpixel((2, 128))  # pyright: ignore[reportGeneralTypeIssues]
    assert blue > 200 > red
    assert facts(thumbnail=uri).header(low_rank(), {}, to="diffusers")["modelspec.thumbnail"] == uri
