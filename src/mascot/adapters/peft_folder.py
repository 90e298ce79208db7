"""Folders of peft: one subfolder for each part of a base, with settings and tensors.

It is what `PeftModel.save_pretrained` writes for one model. In memory the part stands before each
name: `unet.base_model.model.LAYER.lora_A.weight`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from peft.tuners.lokr.layer import factorization
from safetensors.torch import save_file
from torch import Tensor

from mascot.adapters.adapter_checks import PEFT_PREFIX
from mascot.adapters.formats.layer_kinds import split_key
from mascot.adapters.formats.registry import locate
from mascot.adapters.lora_keys import METADATA_KEY, PartSettings
from mascot.adapters.peft_layers import group_factors
from mascot.errors import UserError, list_some
from mascot.storage.strict_parsing import parse_json_object
from mascot.storage.tensor_files import read_tensors
from mascot.storage.untrusted_files import read_json_object

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PARTS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Names of the subfolders that are read."""
KINDS: Final[Mapping[str, str]] = {".lora_": "LORA", ".hada_": "LOHA", ".lokr_": "LOKR"}
"""Mark of a tensor's name -> peft's name of the method."""
DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "LORA": {"r": 8, "lora_alpha": 8},
    "LOHA": {"r": 8, "alpha": 8},
    "LOKR": {"r": 8, "alpha": 8},
}
"""Method -> what peft takes where the settings do not say."""
READ: Final = ("r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules")
"""Settings that are read; peft has more for training."""
AGAIN: Final = "give a folder that peft's save_pretrained wrote"
"""Remedy for a folder that cannot be read."""
KERNEL: Final = 9
"""Places of the kernel of a 3 x 3 convolution."""


def is_peft_folder(path: Path) -> bool:
    """Tell whether a folder holds an adapter of peft, for one part or for several."""
    return any((folder / CONFIG).is_file() for folder in (path, *(path / part for part in PARTS)))


def settings_beside(path: Path) -> bool:
    """Tell whether a file is that of a folder of peft, whose settings lie beside it."""
    return path.name == WEIGHTS and (path.parent / CONFIG).is_file()


def read_peft_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a folder for one part, or one with a subfolder for each part.

    Returns tensors with their part before their names, and metadata in our form.

    Raises:
        UserError: a file is missing or damaged, or the method is none that we read.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, object] = {}
    folders = [(part, path / part) for part in PARTS if (path / part / CONFIG).is_file()]
    for named, folder in folders or [("", path)]:
        values = read_json_object(folder / CONFIG, remedy=AGAIN)
        kind = str(values.get("peft_type", "LORA"))
        if kind not in DEFAULTS:
            raise UserError(f"{folder} holds a {kind} of peft, which mascot does not read; give a LoRA, LoHa or LoKr.")
        own, _ = read_tensors(folder / WEIGHTS, remedy=AGAIN)
        part = named or part_in(path, own)
        tensors |= {f"{part}.{key}": tensor for key, tensor in own.items()}
        values = {**DEFAULTS[kind], **{name: values[name] for name in READ if name in values}}
        settings |= {f"{part}.{name}": value for name, value in values.items()}
    return tensors, {METADATA_KEY: json.dumps(settings, sort_keys=True)}


def part_in(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Find the part that a folder for one part is for, by the names of its layers.

    Raises:
        UserError: they belong to no part that we know.
    """
    for key in tensors:
        split = split_key(key)
        found = locate(split[0]) if split else None
        if found is not None:
            return found.part
    raise UserError(
        f"{path} has no layer that mascot knows ({list_some(tensors) or 'no tensors'}); "
        f"give a folder for one of {', '.join(PARTS)}."
    )


def write_peft_folder(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a folder with a subfolder for each part.

    Raises:
        UserError: peft cannot make such layers.
    """
    settings = parse_json_object(metadata[METADATA_KEY])
    for part in dict.fromkeys(key.partition(".")[0] for key in tensors):
        own = {key.removeprefix(f"{part}."): tensor for key, tensor in tensors.items() if key.startswith(f"{part}.")}
        values = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
        kind = kind_settings(part, own, PartSettings.model_validate(values))
        config = {"base_model_name_or_path": None, "inference_mode": True, **values, **kind}
        (folder / part).mkdir(parents=True)
        (folder / part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(own, folder / part / WEIGHTS, metadata={"format": "pt"})


def kind_settings(part: str, tensors: Mapping[str, Tensor], settings: PartSettings) -> dict[str, object]:
    """Name the method of one part's tensors for peft, with the settings that their shapes need.

    Raises:
        UserError: there are several methods, or factors that peft would not choose.
    """
    kinds = {kind for mark, kind in KINDS.items() if any(mark in key for key in tensors)}
    if len(kinds) > 1:
        raise UserError(
            f"peft has one method in each part, and {part} has {' and '.join(sorted(kinds))}; give --to diffusers."
        )
    kind = kinds.pop()
    if kind == "LORA":
        return {"peft_type": kind, "bias": "none"}
    layers = group_factors({key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()})
    found: dict[str, object] = {
        "peft_type": kind,
        "use_effective_conv2d": any(ending.endswith(("t1", "t2")) for own in layers.values() for ending in own),
    }
    if kind == "LOHA":
        return found
    ranks = {name: settings.rank_of(name) or 1 for name in layers}
    for choice in lokr_choices(layers):
        if all(lokr_fits(choice, own, ranks[name]) for name, own in layers.items()):
            return found | choice
    raise UserError(f"peft would choose other factors for the LoKr of {part}; give --to diffusers.")


def lokr_choices(layers: Mapping[str, Mapping[str, Tensor]]) -> Iterator[dict[str, Any]]:
    """Yield the ways in which peft may have chosen a LoKr's factors."""
    sizes = {size for own in layers.values() for size in first_factor(own)}
    for factor in (-1, *sorted(sizes, reverse=True)):
        for both in (False, True):
            yield {"decompose_factor": factor, "decompose_both": both}


def first_factor(own: Mapping[str, Tensor]) -> tuple[int, int]:
    """Give the shape of a LoKr's first factor."""
    if "lokr_w1" in own:
        return own["lokr_w1"].shape[0], own["lokr_w1"].shape[1]
    return own["lokr_w1_a"].shape[0], own["lokr_w1_b"].shape[1]


def second_factor(own: Mapping[str, Tensor]) -> tuple[int, int]:
    """Give outputs and inputs of a LoKr's second factor; inputs may include a kernel's places."""
    if "lokr_w2" in own:
        return own["lokr_w2"].shape[0], own["lokr_w2"].shape[1]
    left, right = own["lokr_w2_a"], own["lokr_w2_b"]
    return (left.shape[1], right.shape[1]) if "lokr_t2" in own else (left.shape[0], right.shape[1])


def lokr_fits(choice: Mapping[str, Any], own: Mapping[str, Tensor], rank: int) -> bool:
    """Tell whether peft would make the factors of a LoKr's layer by a choice and its rank.

    A kernel may be folded into the second factor's inputs; one and 3 x 3 places are tried.
    """
    (outputs, inputs), (more_outputs, more_inputs) = first_factor(own), second_factor(own)
    folded = "lokr_w2" not in own and "lokr_t2" not in own
    factor, both = choice["decompose_factor"], choice["decompose_both"]
    for places in (1, KERNEL) if folded else (1,):
        inner, left_over = divmod(more_inputs, places)
        split = both and rank < max(outputs, inputs) / 2
        if (
            not left_over
            and factorization(outputs * more_outputs, factor) == (outputs, more_outputs)
            and factorization(inputs * inner, factor) == (inputs, inner)
            and ("lokr_w1_a" in own) == split
            and ("lokr_w2" not in own) == (rank < max(more_outputs, inner) / 2)
        ):
            return True
    return False
