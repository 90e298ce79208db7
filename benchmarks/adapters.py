"""Measure merge, extract and resize of SDXL-sized files, beside a plain loop of torch.linalg.svd.

```sh
python benchmarks/adapters.py                # about ten minutes on one core
```

The files have the layers of SDXL's UNet and both text encoders, from its published settings, with
random weights whose singular values fall as in trained files. Each verb runs in a process of its
own, whose time (without imports) and peak memory are measured. The plain loop multiplies the
factors of each layer and decomposes the matrix; it is measured on one layer of each shape, and
multiplied by how many there are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mascot.adapters.lora_keys import name_in_file
from mascot.adapters.weight_changes.resizing import ranks_in, settings_metadata
from mascot.storage.tensor_files import TensorShape, stream_tensors, write_tensors

RANK = 32
ADAPTED = (".to_q", ".to_k", ".to_v", ".to_out.0", ".proj", ".net.2", ".proj_in", ".proj_out")
TEXT_ADAPTED = ("_proj", ".fc1", ".fc2")
SHARE = "mid_block."
"""The part of the UNet that `extract` is measured on."""
CHILD = """
import json, resource, sys, time
verb, words = sys.argv[1], json.loads(sys.argv[2])
from importlib import import_module
run = getattr(import_module(f"mascot.api.adapters.{verb}"), verb)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
work = run(*words["places"], **words["options"])
seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, before, after, work.rows]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    plain: float | None
    memory: float
    """Megabytes at the peak, with the libraries."""
    size: float
    """Megabytes of the output."""
    facts: str


def sdxl_parts() -> dict[str, nn.Module]:
    """Make SDXL's UNet and text encoders on the meta device, from the published settings."""
    widths: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77}
    one = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **widths
    )
    two = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        **widths,
    )
    settings: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
        return {"unet": unet, "text_encoder": CLIPTextModel(one), "text_encoder_2": CLIPTextModelWithProjection(two)}


def layers_of(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the linear layers that a LoRA usually adapts, with outputs and inputs."""
    for part, module in parts.items():
        endings = ADAPTED if part == "unet" else TEXT_ADAPTED
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith(endings) and (part != "unet" or "attentions" in name):
                yield f"{part}.{name_in_file(part, name)}", (layer.out_features, layer.in_features)


def factors(shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw down and up projection whose singular values fall as one over their number."""
    rows, columns = shape
    weight = torch.arange(1, RANK + 1).float() ** -0.5
    down = torch.randn(RANK, columns, generator=generator) * weight[:, None] / columns**0.5
    return down, torch.randn(rows, RANK, generator=generator) * weight * 0.05


def write_adapter(path: Path, layers: Sequence[tuple[str, tuple[int, int]]], seed: int, dtype: torch.dtype) -> None:
    """Write an adapter of random weights."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in layers:
        down, up = factors(shape, generator)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down.to(dtype), up.to(dtype)
    write_tensors(path, tensors, {"format": "pt", **settings_metadata(ranks_in(tensors))})


def write_models(base: Path, tuned: Path, module: nn.Module) -> int:
    """Write a share of the UNet in float16 as a folder, and a model with changes of every layer.

    Returns the number of weights in it.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if name.startswith(SHARE)}
    for folder, changed in ((base, False), (tuned, True)):
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        kinds = {name: TensorShape(torch.float16, shape) for name, shape in shapes.items()}
        generator, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
        path.parent.mkdir(parents=True)
        with stream_tensors(path, kinds, {"format": "pt"}) as write:
            for name, shape in shapes.items():
                weight = torch.randn(shape, generator=generator) * 0.02
                if changed and len(shape) == 2:
                    down, up = factors((shape[0], shape[1]), other)
                    weight += up @ down + 1e-5 * torch.randn(shape, generator=other)
                write(name, weight.half())
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def measure(verb: str, places: Sequence[object], out: Path, plain: float | None, name: str, **options: object) -> Row:
    """Run a verb in a process of its own."""
    words = json.dumps({"places": places, "options": options})
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", CHILD, verb, words], capture_output=True, text=True, check=True, env=os.environ
    )
    seconds, _, peak, rows = json.loads(done.stdout.splitlines()[-1])
    facts = next((value for key, value in rows if key.startswith("unet")), "")
    return Row(name=name, seconds=seconds, plain=plain, memory=peak / 1024, size=out.stat().st_size / 1e6, facts=facts)


def plain_seconds(shapes: set[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Time a plain decomposition of one layer of each shape."""
    found: dict[tuple[int, int], float] = {}
    generator = torch.Generator().manual_seed(2)
    for shape in sorted(shapes):
        down, up = factors(shape, generator)
        started = time.perf_counter()
        left, singular, right = torch.linalg.svd(up @ down, full_matrices=False)
        _ = left[:, :RANK] * singular[:RANK], right[:RANK]
        found[shape] = time.perf_counter() - started
    return found


def run(folder: Path) -> list[Row]:
    """Measure all verbs."""
    parts = sdxl_parts()
    layers = list(layers_of(parts))
    halves, wholes = ([folder / f"{kind}{seed}.safetensors" for seed in range(2)] for kind in ("fp16_", "fp32_"))
    for paths, dtype in ((halves, torch.float16), (wholes, torch.float32)):
        for seed, path in enumerate(paths):
            write_adapter(path, layers, seed, dtype)
    one = halves[0]
    count = write_models(folder / "base", folder / "tuned", parts["unet"])
    seconds = plain_seconds({shape for _, shape in layers})
    plain = sum(seconds[shape] for _, shape in layers)
    plain_middle = sum(seconds[shape] for name, shape in layers if name.startswith(f"unet.{SHARE}"))
    pair, wide = ([f"a={first}:0.7", f"b={second}:0.5"] for first, second in (halves, wholes))
    out = folder / "out.safetensors"
    jobs: list[tuple[str, list[object], float | None, str, dict[str, object]]] = [
        ("merge", [pair], None, "merge, exactly", {}),
        ("merge", [wide], None, "merge, exactly, both in float32", {}),
        ("merge", [pair], plain, "merge to rank 32", {"rank": 32}),
        ("resize", [str(one)], plain, "resize to rank 8", {"rank": 8}),
        ("resize", [str(one)], plain, "resize to 90 % of the energy", {"energy": 0.9}),
        (
            "extract",
            [str(folder / "tuned"), str(folder / "base")],
            plain_middle,
            f"extract, {count / 1e6:.0f} M weights",
            {"rank": 32},
        ),
    ]
    rows: list[Row] = []
    for verb, places, loop, name, options in jobs:
        out.unlink(missing_ok=True)
        rows.append(measure(verb, [*places, str(out)], out, loop, name, **options))
        typer.echo(show(rows[-1]))
    return rows


def show(row: Row) -> str:
    """Write a line of the table."""
    plain = "" if row.plain is None else f"{row.plain:.0f} s"
    ratio = "" if row.plain is None else f"{row.plain / row.seconds:.0f}"
    sizes = f"{row.memory:.0f} MB | {row.size:.0f} MB"
    return f"| {row.name} | {row.seconds:.1f} s | {plain} | {ratio} | {sizes} | {row.facts} |"


def main() -> None:
    """Print a table of all verbs."""
    typer.echo(f"threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}")
    typer.echo("| work | ours | plain loop | plain / ours | peak memory | output | UNet |")
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
    typer.echo(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    typer.run(main)
