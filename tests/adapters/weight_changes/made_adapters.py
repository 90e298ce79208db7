"""Adapters with random weights of every method, and the images that a base draws with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.diffusion.noise import seeded
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.registry import restore_of, settings_of
from mascot.models.families.registry import load_family
from mascot.protocols import Family, Subject

KNOBS = Knobs(steps=2, guidance=3.0, height=64, width=64)
Pixels = NDArray[np.uint8]


def load(base: Path | str) -> Family:
    """Load a base in float32 on the CPU."""
    return load_family(str(base), device="cpu", precision="fp32")


def write_adapter(
    base: Path,
    path: Path,
    method: str = "lora",
    *,
    word: str = "sks",
    seed: int = 1,
    size: float = 0.15,
    **options: Any,
) -> Path:
    """Write an adapter of a method with random weights; `size` is their deviation."""
    family, subject = load(base), Subject(word, "dog")
    settings = settings_of(method)(**options)
    attached = None
    for phase in settings.phases:
        attached = phase.phase.attach(family.stages[0], subject, seed, attached)
    assert attached is not None
    tensors, metadata = attached.export()
    if method == "dreambooth":
        size /= 30
    changed = {
        key: tensor + size * torch.randn(tensor.shape, generator=seeded(seed, key)) for key, tensor in tensors.items()
    }
    manifest = Manifest(
        method=method,
        base=str(base),
        base_identity=family.identity,
        token=word,
        class_noun="dog",
        resolution=64,
        step=seed,
        recipe={"method": settings.model_dump(mode="json"), "knobs": {"guidance": 3.0, "steps": 2}},
    )
    Adapter(tensors=changed, metadata=metadata, manifest=manifest).write(path)
    return path


def draw(family: Family, prompt: str, *, adapter: Adapter | None = None) -> Pixels:
    """Draw one image."""
    generator = Generator(family, adapter)
    (image,) = generator.generate([ImageRequest(prompt, 3)], KNOBS)
    generator.remove_adapter()
    return np.asarray(image)


def changed_weights(family: Family, path: Path, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Compute by peft what an adapter adds to each weight of a base, at a scale for each part."""
    adapter, stage = Adapter.read(path), family.stages[0]
    assert adapter.manifest is not None
    before = {f"{part}.{k}": v.clone() for part, module in stage.parts.items() for k, v in module.state_dict().items()}
    applied = restore_of(adapter.manifest.method)(stage, adapter.tensors, adapter.metadata)
    applied.scale(scales)
    after: dict[str, Tensor] = {}
    for part, module in stage.parts.items():
        layers: list[tuple[str, Any]] = list(module.named_modules())
        for name, layer in layers:
            merge: Any = getattr(layer, "merge", None)
            if merge is not None and hasattr(layer, "base_layer") and scales.get(part, 1.0) != 0:
                merge()
                after[f"{part}.{name}.weight"] = layer.get_base_layer().weight.detach().clone()
                layer.unmerge()
            weight = getattr(layer, "weight", None)
            if adapter.manifest.method == "dreambooth" and isinstance(weight, Tensor):
                after[f"{part}.{name}.weight"] = weight.detach().clone()
            bias = getattr(layer, "bias", None)
            if adapter.manifest.method == "dreambooth" and isinstance(bias, Tensor):
                after[f"{part}.{name}.bias"] = bias.detach().clone()
    applied.remove()
    return {name: weight - before[name] for name, weight in after.items()}


def draw_sum(base: Path, adapters: Sequence[tuple[Path, float, float]], prompt: str) -> Pixels:
    """Draw one image with the changes of adapters, as peft computes them, added to the weights."""
    family = load(base)
    stage = family.stages[0]
    changes: list[dict[str, Tensor]] = []
    for path, scale, text_scale in adapters:
        scales = {part: scale if part == stage.denoiser else text_scale for part in stage.parts}
        changes.append(changed_weights(family, path, scales))
    with torch.no_grad():
        for change in changes:
            for name, added in change.items():
                part, _, rest = name.partition(".")
                stage.parts[part].get_parameter(rest).add_(added)
    return draw(family, prompt)


def difference(one: Pixels, other: Pixels) -> int:
    """The largest difference of two images, in levels of 255."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())
