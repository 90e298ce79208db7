"""What an adapter file holds, part by part and block by block, with what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import row_fault, settings_by_part
from mascot.adapters.formats.layer_kinds import ALPHA
from mascot.adapters.formats.layer_settings import read_own, write_own
from mascot.adapters.formats.numbered_layers import WORD_MARK
from mascot.adapters.formats.registry import architecture_of
from mascot.adapters.formats.transformer_layers import separate_layers
from mascot.adapters.formats.word_files import Word, take_words
from mascot.adapters.peft_folder import read_peft_folder
from mascot.adapters.token_rows import BUNDLE
from mascot.api.adapters.inspection.blocks import block_of, exists
from mascot.api.adapters.inspection.layer_facts import LayerFacts, Located, locate_layers, read_facts
from mascot.api.adapters.inspection.stated import Statement, Truth, read_statements
from mascot.errors import UserError, list_some, shorten
from mascot.storage.tensor_files import DTYPES, TensorEntry, open_tensors

KINDS: Final[Mapping[str, str]] = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}
"""Kind of a layer's change -> its name in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFacts:
    """How much some layers change their weights."""

    energy: float
    """Sum of the squared Frobenius norms of the weight changes that are known."""
    unknown: int
    """Layers whose energy is not known without the base: those of a DoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """The layers of one part of the base."""

    part: str
    kinds: Mapping[str, int]
    """Kind of the layers' change, such as `lora` -> their number."""
    layers: int
    convolutions: int
    ranks: tuple[int, ...]
    """The different ranks, ascending."""
    alphas: tuple[float, ...]
    energy: EnergyFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """The layers of one block of a part."""

    part: str
    block: str
    layers: int
    energy: EnergyFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class WordFacts:
    """A word that the file holds."""

    token: str
    rows: int
    """Embedding rows in each text encoder."""
    widths: Mapping[str, int]
    """Text encoder -> the width of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What one adapter file holds."""

    format: str
    """The tools whose names its tensors have, joined by `and`; empty where there are no layers."""
    architecture: str | None
    parts: tuple[PartFacts, ...]
    blocks: tuple[BlockFacts, ...]
    words: tuple[WordFacts, ...]
    dtypes: Mapping[str, int]
    """The format's name of a type, such as `F16` -> the number of values of that type."""
    statements: tuple[Statement, ...]
    warnings: tuple[str, ...]

    @property
    def what(self) -> str:
        """What the file is, such as `a LoRA and a LoHa with 1 word`."""
        kinds = dict.fromkeys(kind for part in self.parts for kind in part.kinds)
        what = " and ".join(f"a {KINDS[kind]}" for kind in kinds) or ("an adapter" if self.parts else "")
        if any(part.convolutions for part in self.parts):
            what = what.replace("a LoRA", "a LoCon (a LoRA of convolutions too)")
        words = f"{len(self.words)} word{'s' * (len(self.words) != 1)}" if self.words else ""
        return " with ".join(filter(None, (what, words))) or "an empty file"


def read_file_facts(path: Path) -> FileFacts:
    """Read what an adapter file holds, one layer at a time.

    Raises:
        UserError: the file is no whole safetensors file.
    """
    with open_tensors(path) as stored:
        return describe(stored, stored.header.entries, stored.header.metadata, path)


def read_folder_facts(path: Path) -> FileFacts:
    """Read what a folder of peft holds, with a subfolder for each part or for one.

    Raises:
        UserError: a file is missing or damaged, or the method is none that is read.
    """
    tensors, metadata = read_peft_folder(path)
    names = {f"torch.{name}": short for short, name in DTYPES.items()}
    entries = {
        key: TensorEntry(dtype=names[str(tensor.dtype)], shape=list(tensor.shape), data_offsets=[0, tensor.nbytes])
        for key, tensor in tensors.items()
    }
    return describe(tensors, entries, metadata, path)


def describe(
    tensors: Mapping[str, Tensor], entries: Mapping[str, TensorEntry], metadata: Mapping[str, str], path: Path
) -> FileFacts:
    """Describe tensors, each of which is read when its layer's turn comes."""
    warnings: list[str] = [] if entries else ["it holds no tensors"]
    try:
        located, others = locate_layers(entries)
    except UserError as error:
        located, others = [], list(entries)
        warnings.append(str(error).rstrip("."))
    strays = [key for key in others if located and not key.startswith(BUNDLE) and metadata.get(key) != WORD_MARK]
    lost = set(strays)
    if strays:
        warnings.append(f"{len(strays)} of its tensors belong to no layer and no word: {list_some(strays)}")
    words = read_word_facts({key: tensors[key] for key in others if key not in lost}, metadata, path.stem, warnings)
    located.sort(key=lambda one: one.part.startswith("text_encoder"))
    layers, settings = read_layer_facts(tensors, [one for one in located if one.part], metadata, warnings)
    architecture = architecture_in(located, entries)
    warnings += layer_warnings(layers, architecture, settings, lost=[one.layer for one in located if not one.part])
    truth = truth_of(layers, architecture)
    statements = read_statements(path, metadata, truth)
    warnings += [
        f"the header's {one.key} is wrong: {shorten_hash(one.value)}, and in truth {shorten_hash(one.truth)}"
        for one in statements
        if one.verdict == "wrong"
    ]
    dtypes = Counter[str]()
    for entry in entries.values():
        dtypes[entry.dtype] += entry.size
    return FileFacts(
        format=" and ".join(dict.fromkeys(one.format for one in located if one.format)),
        architecture=architecture,
        parts=part_facts(layers),
        blocks=block_facts(layers),
        words=words,
        dtypes=dict(dtypes),
        statements=tuple(statements),
        warnings=tuple(warnings),
    )


def read_word_facts(
    others: Mapping[str, Tensor], metadata: Mapping[str, str], name: str, faults: list[str]
) -> tuple[WordFacts, ...]:
    """Read the words among the tensors that are of no layer; faults are added to a list."""
    try:
        rest, words = take_words(others, metadata, name)
    except UserError as error:
        faults.append(str(error).rstrip("."))
        return ()
    if rest:
        faults.append(f"{len(rest)} of its tensors belong to no layer and no word: {list_some(rest)}")
    faults += faults_of_words(words)
    return word_facts(words)


def faults_of_words(words: Iterable[Word]) -> list[str]:
    """Say what is wrong with the rows of words."""
    return [
        fault
        for word in words
        for rows_ND in word.rows.values()
        if (fault := row_fault(f"the word {shorten(word.token)}", rows_ND))
    ]


def word_facts(words: Iterable[Word]) -> tuple[WordFacts, ...]:
    """Describe words."""
    return tuple(
        WordFacts(
            token=word.token,
            rows=word.record.vectors,
            widths={part: rows_ND.shape[1] for part, rows_ND in word.rows.items()},
        )
        for word in words
    )


def read_layer_facts(
    tensors: Mapping[str, Tensor], located: list[Located], metadata: Mapping[str, str], faults: list[str]
) -> tuple[list[LayerFacts], Mapping[str, str]]:
    """Read the facts of all layers; metadata that cannot be read are a fault, and left out.

    Also returns the metadata that can be read.
    """
    try:
        settings_by_part(metadata)
    except UserError as error:
        faults.append(str(error).rstrip("."))
        metadata = {}
    return list(read_facts(located, tensors, metadata)), metadata


def architecture_in(located: Iterable[Located], entries: Mapping[str, TensorEntry]) -> str | None:
    """Tell the kind of base from the names and shapes of a file's layers; None if they do not.

    No tensor is read: views of a single number, repeated, have the same shapes.
    """
    shapes = {
        f"{one.name}{ending}": torch.ones(()).expand(entries[key].shape)
        for one in located
        if one.part
        for ending, key in one.keys.items()
        if ending != ALPHA
    }
    try:
        return architecture_of(write_own(separate_layers(read_own(shapes, {})[0]))[0])
    except UserError:  # a layer is damaged; whole ones may still tell
        pass
    try:
        return architecture_of(shapes)
    except UserError:
        return None


def layer_warnings(
    layers: Sequence[LayerFacts], architecture: str | None, metadata: Mapping[str, str], *, lost: Sequence[str]
) -> list[str]:
    """Say what is wrong with the layers of a file; `lost` are names that no base has."""
    total = len(layers) + len(lost)
    warnings = [f"{len(lost)} of {total} layers are of no base that is known: {list_some(lost)}"] if lost else []
    absent = [one.where.name for one in layers if not exists(architecture, one.where.part, one.where.layer)]
    if absent:
        warnings.append(
            f"{len(absent)} of {total} layers are in no base of its kind ({architecture}): {list_some(absent)}"
        )
    for fault in dict.fromkeys(one.fault for one in layers if one.fault):
        names = [one.where.name for one in layers if one.fault == fault]
        warnings.append(f"{len(names)} of {total} layers {fault}: {list_some(names)}")
    settings = settings_by_part(metadata)
    lies = [
        one.where.name
        for one in layers
        if one.rank and one.where.part in settings
        if settings[one.where.part].rank_of(one.where.layer) not in {None, one.rank}
    ]
    if lies:
        warnings.append(f"the header states another rank for {len(lies)} of {total} layers: {list_some(lies)}")
    for part in dict.fromkeys(one.where.part for one in layers):
        own = [one for one in layers if one.where.part == part]
        empty = [one.where.name for one in own if one.energy == 0 and not one.fault]
        if empty:
            what = "all" if len(empty) == len(own) else f"{len(empty)} of {len(own)}"
            warnings.append(f"{what} layers of {part} change nothing: {list_some(empty)}")
    return warnings


def truth_of(layers: Iterable[LayerFacts], architecture: str | None) -> Truth:
    """Collect what a header is compared with."""
    readable = [one for one in layers if one.kind]
    described = (
        [one for one in readable if not one.where.part.startswith("text_encoder") and not one.convolution]
        or [one for one in readable if not one.where.part.startswith("text_encoder")]
        or readable
    )
    return Truth(
        architecture=architecture,
        ranks=tuple(sorted({one.rank for one in described})),
        alphas=tuple(sorted({one.alpha for one in described})),
    )


def part_facts(layers: Sequence[LayerFacts]) -> tuple[PartFacts, ...]:
    """Describe each part."""
    parts = dict.fromkeys(one.where.part for one in layers)
    return tuple(one_part(part, [one for one in layers if one.where.part == part]) for part in parts)


def one_part(part: str, layers: Sequence[LayerFacts]) -> PartFacts:
    """Describe the layers of one part."""
    readable = [one for one in layers if one.kind]
    return PartFacts(
        part=part,
        kinds=dict(Counter(one.kind for one in readable)),
        layers=len(layers),
        convolutions=sum(one.convolution for one in readable),
        ranks=tuple(sorted({one.rank for one in readable})),
        alphas=tuple(sorted({one.alpha for one in readable})),
        energy=energy_facts(readable),
    )


def block_facts(layers: Sequence[LayerFacts]) -> tuple[BlockFacts, ...]:
    """Describe each block, in the order of the file, with a part's blocks by number."""
    grouped: dict[tuple[str, str], list[LayerFacts]] = {}
    for one in layers:
        grouped.setdefault((one.where.part, block_of(one.where.part, one.where.layer)), []).append(one)
    parts = list(dict.fromkeys(one.where.part for one in layers))
    return tuple(
        BlockFacts(part=part, block=block, layers=len(own), energy=energy_facts([one for one in own if one.kind]))
        for (part, block), own in sorted(
            grouped.items(), key=lambda item: (parts.index(item[0][0]), rank_of(item[0][1]))
        )
    )


def rank_of(block: str) -> tuple[int, int, str]:
    """Sort blocks as images pass them: down, middle, up; others last."""
    kinds = ("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "single_transformer_blocks")
    name, _, number = block.partition(".")
    return kinds.index(name) if name in kinds else len(kinds), int(number or 0) if number.isdigit() else 0, block


def energy_facts(layers: Iterable[LayerFacts]) -> EnergyFacts:
    """Add up the energies of layers that can be read."""
    energies = [one.energy for one in layers]
    known = [energy for energy in energies if energy is not None]
    return EnergyFacts(energy=sum(known), unknown=len(energies) - len(known))


def shorten_hash(text: str) -> str:
    """Shorten the long hashes in a text to twelve digits."""
    return " ".join(word if len(word) < 40 else f"{word[:12]}..." for word in text.split())
