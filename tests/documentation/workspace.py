"""A folder in which the documentation's commands run: photos, runs, adapters, images.

All runs are of the embedded base. They are trained for two steps, and generate with four.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from documentation.markdown_pages import ROOT, blocks
from experiments.test_subject_collection import FILE
from mascot.adapters.adapter_file import Adapter
from mascot.api.adapters.bake import bake
from mascot.api.adapters.convert import convert
from mascot.api.evaluate import evaluate
from mascot.api.train import train
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

SMALL = (
    "training.steps=2",
    "training.batch_size=1",
    "training.checkpoint_every=1",
    "checkpoints.keep=9",
    "prior.count=1",
    "prior.steps=1",
    "previews.every=2",
    "knobs.steps=4",
    "selection.active=false",
    "diagnosis.active=false",
    "report.images=0",
)
"""Settings that make a training short."""
RUNS = ("photos", "again", "owl", "parrot", "bear", "dog", "a", "b", "photo")
"""Runs of one subject; they differ in their weights."""
TOKENS = ("sks", "zwx")
PROMPT = "a {subject} in the snow"
COLLECTED = {"cat9": "dog6", "mug": "can", "robot": "cat"}
"""Names of the collection in the tests to those in the documentation."""
OWN: Mapping[str, Mapping[str, str]] = {"docs/subjects.md": {"adapter.safetensors": "runs/both/adapter.safetensors"}}
"""Page -> files that stand there for others than elsewhere."""
SHARED = ("examples", "src")
"""Folders of the repository that commands name."""


def make_workspace(folder: Path) -> Path:
    """Fill a folder with everything that the commands read."""
    write_photos(folder)
    one = write_run(folder, "photos", ["photos"], "dog")
    for number, name in enumerate(RUNS[1:]):
        copy_run(one, folder / "runs" / name, seed=number)
    write_run(folder, "both", ["owl", "bear"], "owl,bear")
    evaluate(folder / "runs" / "again", prompts=[PROMPT], images=1)
    shutil.copyfile(folder / "runs" / "photos" / "adapter.safetensors", folder / "adapter.safetensors")
    for name in ("style", "ink"):
        convert(str(folder / "runs" / "b"), str(folder / f"{name}.safetensors"), to="kohya", private=True)
        forget(folder / f"{name}.safetensors")
    bake([str(folder / "runs" / "owl")], into="starter", out=folder / "models" / "trained")
    write_recipes(folder)
    write_collection(folder / "dreambooth")
    return folder


def write_photos(folder: Path) -> None:
    """Write photos of several subjects, with masks, and images to start from."""
    packaged = ROOT / "src" / "mascot" / "models" / "starter" / "subjects"
    owl = ROOT / "examples" / "mascot" / "photos"
    for name, source in {"photos": packaged / "service_dog", "owl": owl, "bear": packaged / "teddy_bear"}.items():
        (folder / name).mkdir(parents=True)
        for file in sorted(source.glob("*.png"))[:3]:
            shutil.copyfile(file, folder / name / file.name)
    for photo in sorted((folder / "photos").glob("*.png")):
        with Image.open(photo) as image:
            mark(image.size).save(photo.with_suffix(".mask.png"))
    with Image.open(folder / "owl" / "1.png") as image:
        start = image.convert("RGB").resize((128, 128))
    for name in ("room.png", "dog.png", "beach.png", "photo.jpg"):
        start.save(folder / name)
    for name in ("sofa.png", "mask.png", "photo.mask.png"):
        mark(start.size).save(folder / name)


def mark(size: tuple[int, int]) -> Image.Image:
    """Draw a mask: white in the middle."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    return mask


def write_run(folder: Path, name: str, photos: Sequence[str], class_noun: str) -> Run:
    """Train a run for two steps, of one subject or several."""
    places, nouns = [str(folder / place) for place in photos], class_noun.split(",")
    if len(nouns) == 1:
        recipe = Recipe.preset(photos=tuple(places), class_noun=class_noun, token=TOKENS[0], overrides=SMALL)
    else:
        tables = [
            {"photos": [place], "class_noun": noun, "token": token}
            for place, noun, token in zip(places, nouns, TOKENS, strict=True)
        ]
        recipe = Recipe.preset(subject=tables, overrides=SMALL)
    return train(recipe, out=folder / "runs" / name)


def copy_run(run: Run, folder: Path, *, seed: int) -> None:
    """Copy a run, with other weights in its adapter."""
    shutil.copytree(run.folder, folder)
    adapter, generator = Adapter.read(run.adapter), torch.Generator().manual_seed(seed)
    tensors = {
        key: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for key, tensor in adapter.tensors.items()
    }
    Adapter(tensors=tensors, metadata=adapter.metadata, manifest=adapter.manifest).write(Run(folder).adapter)


def forget(path: Path) -> None:
    """Take the manifest out of an adapter, as another tool would have written it."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    path.unlink()
    save_file(tensors, path)


def write_recipes(folder: Path) -> None:
    """Write the recipes that the pages name; `small.toml` is its page's, on the embedded base."""
    recipe = Recipe.preset(
        photos=(str(folder / "photos"),), class_noun="dog", token=TOKENS[0], overrides=[*SMALL, "knobs.steps=1"]
    )
    (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    page = ROOT / "docs" / "how-to" / "eight_gigabytes.md"
    written = next(block.text for block in blocks(page) if block.language == "toml")
    (folder / "small.toml").write_text(re.sub(r'base = ".*"', 'base = "starter"', written), encoding="utf-8")


def write_collection(folder: Path) -> None:
    """Write a collection of subjects in the layout of the DreamBooth paper's."""
    text = FILE
    for old, name in COLLECTED.items():
        text = text.replace(old, name)
        shutil.copytree(folder.parent / "photos", folder / name, ignore=shutil.ignore_patterns("*.mask.png"))
    (folder / "prompts_and_classes.txt").write_text(text, encoding="utf-8")


def workspace_of(page: str, template: Path, folder: Path) -> Path:
    """Make a page's own workspace: files are linked, since every command writes new ones."""
    shutil.copytree(template, folder, copy_function=os.link)
    for name, source in OWN.get(page, {}).items():
        (folder / name).unlink()
        os.link(folder / source, folder / name)
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "docs" / "pictures").mkdir(parents=True)
    return folder
