"""The folder of bad command lines: photos, bases, runs, adapters, most broken in one way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.adapters.adapter_file import MANIFEST_KEY, Adapter, Manifest
from mascot.adapters.lora_keys import METADATA_KEY
from mascot.data.photos import read_photos
from mascot.evaluation.scores import METRICS, REFERENCES, Score, Scores
from mascot.generation.knobs import Knobs
from mascot.methods.registry import settings_of
from mascot.models.families.registry import load_family
from mascot.models.families.sd import PARTS
from mascot.models.pipeline_files import fingerprint, weight_files
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import photo_hashes
from mascot.storage.run_folder import Run
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import bad_photo_files, noise
from tiny.stable_diffusion import SUBJECT, tiny_stable_diffusion

COLLECTION = """Classes
subject_name,class
rex,dog

Prompts

Object Prompts
prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
]

Live Subject Prompts
prompt_list = [
'a {0} {1} on the beach'.format(unique_token, class_token),
]
"""
"""The table of a collection of one subject."""
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def lay_out(folder: Path, tiny_base: Path) -> None:
    """Write everything that `bad_commands` names into an empty folder."""
    for name in ("photos", "empty", "clutter", "bad", "bases", "runs", "adapters"):
        (folder / name).mkdir(parents=True)
    noise().save(folder / "photos" / "1.png")
    (folder / "clutter" / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (folder / "note.txt").write_text("a note\n", encoding="utf-8")
    bad_photo_files(folder / "bad")
    copy(tiny_base, folder / "base")
    lay_out_bases(folder)
    lay_out_runs(folder)
    lay_out_adapters(folder)
    lay_out_questions(folder)


def copy(source: Path, target: Path) -> Path:
    """Copy a base by links: only what is broken takes space."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def put(path: Path, data: bytes) -> None:
    """Write a file in place of a link, so that the original stays whole."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    data = path.read_bytes()
    put(path, data[: len(data) // 2])


def change(path: Path, **values: Any) -> None:
    """Change entries of a JSON file."""
    put(path, json.dumps(json.loads(path.read_bytes()) | values).encode())


def lay_out_bases(folder: Path) -> None:
    """Copies of the base, each with one fault."""
    faults: dict[str, Callable[[Path], object]] = {
        "no_unet": lambda base: shutil.rmtree(base / "unet"),
        "no_unet_weights": lambda base: (base / UNET).unlink(),
        "unet_truncated": lambda base: cut(base / UNET),
        "unet_text": lambda base: put(base / UNET, b"no weights"),
        "unet_empty": lambda base: put(base / UNET, b""),
        "unet_pickled": lambda base: (base / UNET).rename(base / "unet" / "diffusion_pytorch_model.bin"),
        "unet_config": lambda base: cut(base / "unet" / "config.json"),
        "no_vae": lambda base: shutil.rmtree(base / "vae"),
        "vae_truncated": lambda base: cut(base / VAE),
        "no_text_encoder": lambda base: shutil.rmtree(base / "text_encoder"),
        "text_encoder_truncated": lambda base: cut(base / TEXT),
        "no_tokenizer": lambda base: shutil.rmtree(base / "tokenizer"),
        "tokenizer_truncated": lambda base: cut(base / "tokenizer" / "tokenizer.json"),
        "no_scheduler": lambda base: shutil.rmtree(base / "scheduler"),
        "scheduler_broken": lambda base: cut(base / "scheduler" / "scheduler_config.json"),
        "other_unet": lambda base: change(base / "unet" / "config.json", block_out_channels=[32, 64]),
        "few_unet_tensors": lambda base: keep_few_tensors(base / UNET),
        "few_vae_tensors": lambda base: keep_few_tensors(base / VAE),
        "few_text_tensors": lambda base: keep_few_tensors(base / TEXT),
        "index_truncated": lambda base: cut(base / "model_index.json"),
        "index_text": lambda base: put(base / "model_index.json", b"no JSON"),
        "index_list": lambda base: put(base / "model_index.json", b"[]"),
        "index_empty": lambda base: put(base / "model_index.json", b""),
        "index_folder": make_index_a_folder,
        "other_kind": lambda base: change(base / "model_index.json", _class_name="AudioPipeline"),
        "other_answer": lambda base: change(base / "scheduler" / "scheduler_config.json", prediction_type="sample"),
    }
    for name, spoil in faults.items():
        spoil(copy(folder / "base", folder / "bases" / name))
    tiny_stable_diffusion(folder / "bases" / "other_seed", seed=1)


def keep_few_tensors(file: Path) -> None:
    """Leave most weights out of a file that is whole."""
    tensors = load_file(file)
    file.unlink()
    save_file({key: tensors[key] for key in sorted(tensors)[:5]}, file, metadata={"format": "pt"})


def make_index_a_folder(base: Path) -> None:
    """Put a folder where the index should be."""
    (base / "model_index.json").unlink()
    (base / "model_index.json").mkdir()


def lay_out_runs(folder: Path) -> None:
    """Runs that cannot be gone on with, and one that is not finished."""
    recipe = Recipe.preset(
        photos=("photos",),
        base=str(folder / "base"),
        overrides=["prior.count=0", "device=cpu", "training.steps=2", "previews.every=0"],
    ).model_copy(update={"base": "base"})
    recipes = {
        "unfinished": recipe.to_toml(),
        "runs/broken_recipe": recipe.to_toml()[:-200] + "[",
        "runs/other_recipe": recipe.to_toml().replace("[training]", "[trainig]"),
        "runs/other_photos": recipe.to_toml(),
        "runs/lost_photos": recipe.model_copy(update={"photos": ("gone",)}).to_toml(),
        "runs/lost_base": recipe.model_copy(update={"base": "gone"}).to_toml(),
        "runs/broken_facts": recipe.to_toml(),
        "runs/broken_checkpoint": recipe.to_toml(),
    }
    for name, text in recipes.items():
        run = Run(folder / name)
        run.folder.mkdir()
        run.lock.touch()
        run.write_text(run.recipe, text)
    Run(folder / "runs/other_photos").effective.write_text(
        '{"photos": [["1.png", "another"]], "base": "any"}', encoding="utf-8"
    )
    Run(folder / "runs/broken_facts").effective.write_text('{"photos"', encoding="utf-8")
    run = Run(folder / "runs/broken_checkpoint")
    identity = fingerprint(weight_files(str(folder / "base"), PARTS))
    run.effective.write_text(
        json.dumps({"photos": photo_hashes(read_photos([folder / "photos"])), "base": identity}), encoding="utf-8"
    )
    run.checkpoint(1).mkdir(parents=True)
    (run.checkpoint(1) / "state.safetensors").write_bytes(b"no state")


def lay_out_adapters(folder: Path) -> None:
    """One good adapter, and copies with one fault each."""
    adapter = fresh_adapter(folder / "base")
    adapter.write(folder / "adapter.safetensors")
    whole = (folder / "adapter.safetensors").read_bytes()
    put(folder / "text.safetensors", b"no weights\n")
    put(folder / "empty.safetensors", b"")
    put(folder / "truncated.safetensors", whole[: len(whole) // 2])
    put(folder / "pickled.ckpt", pickle.dumps({"weights": [1.0]}))
    with ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("adapter.safetensors", whole)
    assert adapter.manifest is not None
    lost, other = (
        adapter.manifest.model_copy(update=update)
        for update in ({"base": "gone"}, {"base_identity": "0123456789abcdef"})
    )
    strange = adapter.manifest.model_copy(update={"method": "lorra"})
    knobs = adapter.manifest.model_copy(update={"recipe": {"knobs": {"guidance": "strong"}}})
    for name, manifest in {
        "lost_base": lost,
        "other_base": other,
        "other_method": strange,
        "manifest_knobs": knobs,
        "no_manifest": None,
    }.items():
        Adapter(tensors=adapter.tensors, metadata=adapter.metadata, manifest=manifest).write(
            folder / "adapters" / f"{name}.safetensors"
        )
    for name, text in {"manifest_text": "no JSON", "manifest_list": "[]", "manifest_newer": '{"version": 2}'}.items():
        save_file(dict(adapter.tensors), folder / "adapters" / f"{name}.safetensors", metadata={MANIFEST_KEY: text})
    for name, text in {
        "metadata_text": "no JSON",
        "metadata_list": "[]",
        "metadata_rank": '{"unet.r": "high", "text_encoder.r": "high"}',
    }.items():
        made = Adapter(tensors=adapter.tensors, metadata={METADATA_KEY: text}, manifest=adapter.manifest)
        made.write(folder / "adapters" / f"{name}.safetensors")
    unread = {key: tensor for key, tensor in adapter.tensors.items() if not key.startswith("text_encoder")}
    Adapter(tensors=unread, metadata=adapter.metadata, manifest=adapter.manifest).write(
        folder / "adapters" / "no_text.safetensors"
    )
    fresh_token(folder / "base").write(folder / "adapters" / "token.safetensors")
    for name, tensors in spoiled(adapter.tensors).items():
        Adapter(tensors=tensors, metadata={}, manifest=adapter.manifest).write(
            folder / "adapters" / f"{name}.safetensors"
        )


def lay_out_questions(folder: Path) -> None:
    """Encoders, a collection, and scored runs: one without a fault, others with one each."""
    tiny_identity(folder / "seer")
    tiny_clip(folder / "reader")
    (folder / "collection" / "rex").mkdir(parents=True)
    noise().save(folder / "collection" / "rex" / "1.png")
    (folder / "collection" / "prompts_and_classes.txt").write_text(COLLECTION, encoding="utf-8")
    recipe = Run(folder / "unfinished").recipe.read_text(encoding="utf-8")
    adapter = (folder / "adapter.safetensors").read_bytes()
    for name in ("run", "runs/broken_adapter", "runs/gone_photos", "runs/trained_broken_recipe", "runs/blocked"):
        run = Run(folder / name)
        run.write_text(run.recipe, recipe)
        put(run.adapter, adapter)
    put(folder / "runs/broken_adapter/adapter.safetensors", adapter[: len(adapter) // 2])
    put(folder / "runs/gone_photos/recipe.toml", recipe.replace('"photos"', '"gone"').encode())
    put(folder / "runs/trained_broken_recipe/recipe.toml", b"[")
    put(folder / "sweep.toml", b'photos = ["photos"]\nbase = "base"\ndevice = "cpu"\nprior.count = 0\n')
    put(folder / "runs/blocked/evaluation", b"a file in the folder's place")
    scores = empty_scores(seed=0)
    for name, text in {
        "scored": scores.model_dump_json(),
        "scored_otherwise": empty_scores(seed=1).model_dump_json(),
        "scores_text": "no JSON",
        "scores_cut": scores.model_dump_json()[:-100],
        "scores_newer": scores.model_dump_json().replace('"version":1', '"version":2'),
    }.items():
        run = Run(folder / "runs" / name)
        run.write_text(run.recipe, recipe)
        run.write_text(run.scores, text)


def empty_scores(*, seed: int) -> Scores:
    """Scores without a number, each for the same reason."""
    known = {*METRICS, *(name for row in REFERENCES.values() for name in row.values())}
    return Scores(
        name="",
        subject="sks dog",
        class_noun="dog",
        live=True,
        base="base",
        base_fingerprint="",
        weights="",
        photos=(),
        knobs=Knobs(),
        images=1,
        seed=seed,
        encoders={"identity": "seer", "clip": "reader"},
        prompts=(),
        values={name: Score(value=None, reason="nothing was drawn") for name in known},
    )


def fresh_adapter(base: Path, **settings: float) -> Adapter:
    """A LoRA of the base that changes it a little."""
    family = load_family(str(base), device="cpu", precision="fp32")
    fresh, metadata = settings_of("lora")(rank=2, **settings).attach(family.stages[0], SUBJECT, 0, None).export()
    tensors = {key: tensor + 0.01 for key, tensor in fresh.items()}
    subject = {"token": "sks", "class_noun": "dog"}
    manifest = Manifest(
        method="lora", base="base", base_identity=family.identity, resolution=64, step=0, recipe={}, **subject
    )
    return Adapter(tensors=tensors, metadata=metadata, manifest=manifest)


def fresh_token(base: Path) -> Adapter:
    """A token of the base that has learned a little."""
    family = load_family(str(base), device="cpu", precision="fp32")
    method = settings_of("textual-inversion")()
    fresh, metadata = method.attach(family.stages[0], SUBJECT, 0, None).export()
    tensors = {key: tensor + 0.01 for key, tensor in fresh.items()}
    subject = {"token": SUBJECT.token, "class_noun": "dog"}
    manifest = Manifest(
        method=method.name, base="base", base_identity=family.identity, resolution=64, step=0, recipe={}, **subject
    )
    return Adapter(tensors=tensors, metadata=metadata, manifest=manifest)


def spoiled(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors that no layer of the base can wear."""
    first, second = sorted(tensors)[:2]
    assert first.replace("lora_A", "lora_B") == second
    return {
        "other_keys": {f"lora_unet_{key.replace('.', '_')}": tensor for key, tensor in tensors.items()},
        "no_tensors": {},
        "other_shapes": {
            key: torch.zeros(tensor.shape[0], 2 * tensor.shape[1])
            if ".lora_A." in key
            else torch.zeros(2 * tensor.shape[0], tensor.shape[1])
            for key, tensor in tensors.items()
        },
        "half": {key: tensor for key, tensor in tensors.items() if key != second},
        "other_rank": dict(tensors) | {first: torch.zeros(3, *tensors[first].shape[1:])},
        "flat": dict(tensors) | {first: tensors[first].flatten()},
        "scalar": dict(tensors) | {second: torch.tensor(1.0)},
    }
