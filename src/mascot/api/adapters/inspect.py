"""`inspect`: tell what a file or folder holds, without loading a base.

It reads adapters of every tool, words, runs, single-file checkpoints and base folders. Of an
adapter one layer is in memory at a time; of a base only headers are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mascot.adapters.adapter_file import MANIFEST_KEY, Manifest, read_manifest
from mascot.adapters.foreign_formats import describe_foreign, describe_pickle
from mascot.adapters.formats.registry import CROSS_ATTENTION
from mascot.adapters.formats.word_files import take_words, tensors_in_pickle
from mascot.adapters.peft_folder import is_peft_folder
from mascot.api.adapters.inspection.file_facts import (
    FileFacts,
    faults_of_words,
    read_file_facts,
    read_folder_facts,
    word_facts,
)
from mascot.api.adapters.inspection.inspected import Inspection, PartSize
from mascot.errors import UserError
from mascot.generation.stack.adapter_sources import download_adapter, is_repository, published_file
from mascot.models.base_files.file_contents import PARTS, UNET, FileContents, read_contents
from mascot.models.families.base_source import source_of
from mascot.models.families.registry import family_name
from mascot.storage.run_folder import Run, kept_steps, locate
from mascot.storage.tensor_files import DTYPES, TensorEntry, read_header, read_pickled
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

PICKLED: Final = (".pt", ".bin", ".pth", ".ckpt")
"""File name extensions of pickled weights."""
AGAIN: Final = "get it again from where it comes from"


def inspect(source: str | Path) -> Inspection:
    """Tell what a file, a run, `RUN@STEP`, a folder or a repository of the hub holds.

    A folder is a run's, a base's, or one of an adapter.

    Raises:
        UserError: nothing is there, or it is damaged, or it is nothing that mascot knows.
    """
    path = locate(Path(source_of(str(source))))
    if not path.exists() and is_repository(str(source)):
        path = download_adapter(str(source))
    if path.is_dir():
        return inspect_folder(path)
    if not path.exists():
        raise UserError(f"{source} does not exist; give a file, a run's folder, RUN@STEP, or the folder of a base.")
    if path.suffix.lower() in PICKLED:
        return inspect_pickled(path)
    try:
        header = read_header(path, remedy=AGAIN)
    except UnreadableFile as error:
        pickled = describe_pickle(path)
        if pickled is None:
            raise
        raise UserError(f"{path} is {pickled} under another name; {AGAIN}.") from error
    facts = read_file_facts(path)
    if facts.parts or facts.words or not header.entries:
        return inspect_adapter(path, facts, header.metadata)
    return inspect_weights(path, header.entries, facts)


def inspect_adapter(path: Path, facts: FileFacts, metadata: Mapping[str, str]) -> Inspection:
    """Describe an adapter file of any tool."""
    found = Inspection(
        path=str(path),
        what=facts.what,
        bytes=size_of(path),
        architecture=facts.architecture,
        format=facts.format or None,
        trigger=metadata.get("modelspec.trigger_phrase") or " ".join(word.token for word in facts.words) or None,
        base=metadata.get("ss_sd_model_name"),
        base_identity=metadata.get("ss_sd_model_hash"),
        steps=stated_steps(metadata),
        parts=facts.parts,
        blocks=facts.blocks,
        words=facts.words,
        dtypes=facts.dtypes,
        statements=facts.statements,
        warnings=facts.warnings,
    )
    if MANIFEST_KEY not in metadata:
        return found
    try:
        return with_manifest(found, read_manifest(path, metadata[MANIFEST_KEY]))
    except UserError as error:
        return replace(found, warnings=(*found.warnings, str(error).rstrip(".")))


def size_of(path: Path) -> int:
    """Count the bytes of a file, or of the files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def with_manifest(found: Inspection, manifest: Manifest) -> Inspection:
    """Add what a manifest says."""
    return replace(
        found,
        method=manifest.method,
        trigger=" and ".join(subject.words for subject in manifest.subject.all),
        base=manifest.base,
        base_identity=manifest.base_identity,
        steps=manifest.step,
        resolution=manifest.resolution,
        knobs=manifest.knobs or manifest.recipe.get("knobs"),
    )


def stated_steps(metadata: Mapping[str, str]) -> int | None:
    """Read the number of steps off another tool's header."""
    text = metadata.get("ss_steps") or metadata.get("step") or ""
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def inspect_weights(path: Path, entries: Mapping[str, TensorEntry], facts: FileFacts) -> Inspection:
    """Describe a file that is no adapter: a whole checkpoint, or one part of a base.

    Raises:
        UserError: it is nothing that mascot knows.
    """
    plain = Inspection(
        path=str(path),
        what="",
        bytes=path.stat().st_size,
        dtypes=facts.dtypes,
        statements=facts.statements,
        sizes=part_sizes(entries),
    )
    try:
        contents = read_contents(path)
    except UserError as error:
        shapes = {name: tuple(entry.shape) for name, entry in entries.items()}
        known = describe_foreign(shapes)
        if known is None or known[0].startswith("no adapter"):
            raise UserError(f"{path} holds nothing that mascot knows; give an adapter or a base.") from error
        return replace(plain, what=known[0].partition(",")[0])
    predictions = {"v": "v_prediction", "epsilon": "epsilon", "auto": None}
    return replace(
        plain,
        what=f"a checkpoint of a whole base ({contents.pipeline})",
        architecture=architecture_of_file(contents) or family_name(str(path)),
        prediction=predictions[contents.prediction],
    )


def architecture_of_file(contents: FileContents) -> str | None:
    """Tell the kind of UNet in a checkpoint; None for a transformer."""
    ending = ".attn2.to_k.weight"
    keys = (key for key in contents.shapes if key.startswith(UNET) and key.endswith(ending))
    widths = {contents.shapes[key][-1] for key in keys if contents.shapes[key]}
    return CROSS_ATTENTION.get(widths.pop()) if len(widths) == 1 else None


def part_sizes(entries: Mapping[str, TensorEntry]) -> tuple[PartSize, ...]:
    """Count the values of each part of a base in a single file."""
    parts: dict[str, Counter[str]] = {}
    for name, entry in entries.items():
        part = next((part for pattern, part in PARTS.items() if re.search(pattern, name)), "other tensors")
        parts.setdefault(part.removeprefix("a ").removeprefix("an "), Counter())[entry.dtype] += entry.size
    return tuple(PartSize(part=part, parameters=own.total(), dtypes=dict(own)) for part, own in parts.items())


def inspect_pickled(path: Path) -> Inspection:
    """Describe a pickled file of words, or refuse it.

    Raises:
        UserError: it holds anything but tensors, or no words.
    """
    tensors = tensors_in_pickle(read_pickled(path, remedy="convert it with the tool that wrote it, to .safetensors"))
    words = take_words(tensors, {}, path.stem)[1] if tensors is not None else []
    if tensors is None or not words:
        raise UserError(f"{path} is a pickled file and holds no words; convert it to .safetensors first.")
    names = {f"torch.{name}": short for short, name in DTYPES.items()}
    dtypes = Counter[str]()
    for tensor in tensors.values():
        dtypes[names.get(str(tensor.dtype), str(tensor.dtype))] += tensor.numel()
    facts = word_facts(words)
    return Inspection(
        path=str(path),
        what=f"{len(words)} word{'s' * (len(words) != 1)}, pickled",
        bytes=path.stat().st_size,
        trigger=" ".join(word.token for word in facts),
        words=facts,
        dtypes=dict(dtypes),
        warnings=tuple(faults_of_words(words)),
    )


def inspect_folder(path: Path) -> Inspection:
    """Describe a run, the folder of a base, or a folder with one adapter.

    Raises:
        UserError: it is none of these, or the run has no adapter yet.
    """
    if (path / "model_index.json").is_file():
        return inspect_base(path)
    if is_peft_folder(path):
        return inspect_adapter(path, read_folder_facts(path), {})
    run = Run(path)
    if run.recipe.is_file() and not run.adapter.is_file():
        kept = [f"{path}@{step}" for step in kept_steps(run)]
        there = f", or inspect {' or '.join(kept)}" if kept else ""
        raise UserError(
            f"{path} is not trained to the end; finish it with `mascot train --resume --out {path}`{there}."
        )
    file = named_file(path)
    found = inspect(file)
    return replace(found, kept_steps=tuple(kept_steps(run))) if run.recipe.is_file() else found


def named_file(folder: Path) -> Path:
    """Find the adapter's file in a folder: by a usual name, or as its only file of tensors.

    Raises:
        UserError: there is none, or there are several.
    """
    file = published_file(folder)
    if file is None:
        count = len(list(folder.glob("*.safetensors")))
        held = f"{count} .safetensors files; give one of them" if count else "no run, no base and no adapter"
        raise UserError(f"{folder} holds {held}{'' if count else '; give a file or the folder of a run or a base'}.")
    return file


def inspect_base(path: Path) -> Inspection:
    """Describe a base folder in the diffusers layout, from its settings and headers alone.

    Raises:
        UserError: it is no base of a family that mascot knows, or a file is damaged.
    """
    name = family_name(str(path))
    index = read_json_object(path / "model_index.json")
    folders = [path / part for part in index if not part.startswith("_") and (path / part).is_dir()]
    sizes = [size for folder in folders if (size := folder_size(folder)) is not None]
    dtypes = Counter[str]()
    for size in sizes:
        dtypes.update(size.dtypes)
    return Inspection(
        path=str(path),
        what=f"a base folder ({index.get('_class_name')})",
        bytes=size_of(path),
        architecture=architecture_of_folder(path) or name,
        prediction=stated_prediction(path),
        sizes=tuple(sizes),
        dtypes=dict(dtypes),
    )


def folder_size(folder: Path) -> PartSize | None:
    """Count the values in the .safetensors files of one part; None where it has none."""
    dtypes = Counter[str]()
    for file in without_variants(sorted(folder.glob("*.safetensors"))):
        for entry in read_header(file).entries.values():
            dtypes[entry.dtype] += entry.size
    return PartSize(part=folder.name, parameters=dtypes.total(), dtypes=dict(dtypes)) if dtypes else None


def without_variants(files: Iterable[Path]) -> list[Path]:
    """Leave out second copies of the same weights, such as `model.fp16.safetensors`."""
    files = list(files)
    plain = [file for file in files if not re.search(r"\.(fp16|bf16|non_ema)\b", file.name)]
    return plain or files


def architecture_of_folder(path: Path) -> str | None:
    """Tell the kind of UNet by its settings; None for other denoisers."""
    settings = path / "unet" / "config.json"
    width = read_json_object(settings).get("cross_attention_dim") if settings.is_file() else None
    return CROSS_ATTENTION.get(width) if isinstance(width, int) else None


def stated_prediction(path: Path) -> str | None:
    """Read what a base predicts off its scheduler's settings."""
    settings = path / "scheduler" / "scheduler_config.json"
    if not settings.is_file():
        return None
    values = read_json_object(settings)
    if "FlowMatch" in str(values.get("_class_name")):
        return "flow"
    stated = values.get("prediction_type", "epsilon")
    return stated if isinstance(stated, str) else None
