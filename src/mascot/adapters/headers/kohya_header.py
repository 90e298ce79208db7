"""kohya's keys of an adapter's header, which A1111, ComfyUI's helpers and metadata editors read.

They begin with `ss_`. kohya's scripts write dozens; these are the ones that describe the file and
not the machine, and that other tools use. A1111 takes the family from `ss_base_model_version` and
`ss_v2`, and the adapter's name in prompts from `ss_output_name`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from mascot.adapters.headers.model_spec import version_3
from mascot.adapters.lora_keys import DOWN, MAGNITUDE, PartSettings, read_settings

VERSIONS: Final[Mapping[str, str]] = {
    "sd1": "sd_v1",
    "sd2": "sd_v2",
    "sdxl": "sdxl_base_v1-0",
    "flux": "flux1",
}
"""Architecture -> `ss_base_model_version`; Stable Diffusion 3 has a version for each size."""
VELOCITY_ENDING: Final = "_v"
"""What follows the version of a Stable Diffusion that predicts the velocity."""
NETWORKS: Final[Mapping[str, str]] = {"sd3": "networks.lora_sd3", "flux": "networks.lora_flux"}
"""Architecture -> kohya's module of its LoRAs."""
NETWORK: Final = "networks.lora"
"""kohya's module of the other architectures' LoRAs."""
LYCORIS: Final = "lycoris.kohya"
"""The module of what kohya's scripts train through LyCORIS: DoRA, LoHa and LoKr."""
ALGORITHMS: Final[Mapping[str, str]] = {".hada_": "loha", ".lokr_": "lokr"}
"""What stands in a tensor's name -> LyCORIS's name of the algorithm."""
TEXT_ENCODER: Final = "text_encoder"
"""How the names of text encoders begin."""
SEVERAL: Final = "Dynamic"
"""kohya's word for a rank or an alpha that differs between layers."""
FOLDER: Final = "subject"
"""Stands for the folder of photos in `ss_tag_frequency`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What kohya's header says of a training."""

    output_name: str
    """The adapter's name in A1111's prompts: `<lora:NAME:1>`."""
    images: int | None
    """Number of photos; None where it is not known."""
    triggers: Mapping[str, int]
    """Trigger words -> the number of photos of that subject."""


def kohya_keys(
    facts: TrainingFacts,
    *,
    architecture: str,
    prediction: str | None,
    resolution: tuple[int, int] | None,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> dict[str, str]:
    """Return the header's keys of a low-rank adapter in our own form; hashes are filled in later.

    `resolution` is width and height in pixels.
    """
    widths = {tensor.shape[1] for key, tensor in tensors.items() if key.endswith(DOWN)}
    version = VERSIONS.get(architecture) or version_3(tensors, widths)
    if prediction == "v_prediction" and version.startswith("sd_"):
        version += VELOCITY_ENDING
    keys = {
        "ss_output_name": facts.output_name,
        "ss_base_model_version": version,
        "ss_v2": str(architecture == "sd2"),
        **network_keys(architecture, tensors, metadata),
    }
    if resolution is not None:
        keys["ss_resolution"] = str(resolution)
    if facts.images is not None:
        keys["ss_num_train_images"] = str(facts.images)
    if facts.images and facts.triggers:
        keys["ss_tag_frequency"] = tag_frequency(facts.triggers)
    return keys


def tag_frequency(triggers: Mapping[str, int]) -> str:
    """Write how often each trigger stands in captions, as JSON by folder and tag.

    Only the trigger words are written. The other words of captions are training data, and those of
    photos' names are names of photos.
    """
    names = [FOLDER] if len(triggers) == 1 else [f"{FOLDER}_{number + 1}" for number in range(len(triggers))]
    counted = {name: {tag.lower(): count} for name, (tag, count) in zip(names, triggers.items(), strict=True)}
    return json.dumps(counted, ensure_ascii=False)


def network_keys(architecture: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Describe the low-rank layers: module, rank, alpha, and what the module is told besides."""
    algorithm = next((name for mark, name in ALGORITHMS.items() if any(mark in key for key in tensors)), None)
    ranks = layer_ranks(tensors, metadata, algorithm)
    linear = [pair for pair, is_linear in ranks if is_linear]
    convolved = [pair for pair, is_linear in ranks if not is_linear]
    arguments: dict[str, str] = {}
    if algorithm is not None:
        arguments["algo"] = algorithm
    elif any(key.endswith(MAGNITUDE) for key in tensors):
        arguments |= {"algo": "lora", "dora_wd": "True"}
    if linear and convolved:
        arguments |= {"conv_dim": shared([r for r, _ in convolved]), "conv_alpha": shared([a for _, a in convolved])}
    described = linear or convolved
    keys = {
        "ss_network_module": LYCORIS if "algo" in arguments else NETWORKS.get(architecture, NETWORK),
        "ss_network_dim": shared([rank for rank, _ in described]),
        "ss_network_alpha": shared([alpha for _, alpha in described]),
    }
    return keys | ({"ss_network_args": json.dumps(arguments, sort_keys=True)} if arguments else {})


def layer_ranks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], algorithm: str | None
) -> list[tuple[tuple[int, float], bool]]:
    """List rank and alpha of each layer, and whether it is linear, of the denoiser if it has any.

    Alpha is the number that, divided by the rank, multiplies the layer's change: that of an rsLoRA
    is folded in.
    """
    settings = read_settings(metadata)
    if algorithm is not None:
        own = settings[min(settings, key=is_text_encoder)]
        return [((own.r or 0, own.alpha or 0.0), True)]
    parts = {key.partition(".")[0] for key in tensors if key.endswith(DOWN)}
    chosen = {part for part in parts if not is_text_encoder(part)} or parts
    found: list[tuple[tuple[int, float], bool]] = []
    for key, down in tensors.items():
        part, _, rest = key.partition(".")
        if part in chosen and key.endswith(DOWN):
            given = settings.get(part, PartSettings())
            alpha = given.alpha_of(rest.removesuffix(DOWN), len(down))
            folded = alpha * math.sqrt(len(down)) if given.use_rslora else alpha
            found.append(((len(down), folded), down.ndim == 2 or set(down.shape[2:]) == {1}))
    return found


def is_text_encoder(part: str) -> bool:
    """Tell whether a part is a text encoder by its name."""
    return part.startswith(TEXT_ENCODER)


def shared(values: Sequence[float]) -> str:
    """Write the one value of all layers as kohya does; `Dynamic` where they differ."""
    first = values[0]
    return f"{first:.9g}" if all(value == first for value in values) else SEVERAL
