"""Measure LoRA training in steps a second and peak memory, beside a peer's script on the same work.

    python benchmarks/training.py --peer train_dreambooth_lora.py --runner run_peer.py
    python benchmarks/training.py --large        # also a UNet of Stable Diffusion 1.5's size

Both train a rank-16 LoRA on the UNet's attention of one base, with the same photos, batch,
resolution and steps, alternating in one run. The peer has its best settings (bf16, precomputed
text). Speed is the difference between a long and a short run of the whole program, so that
starting, loading and saving cancel out. Without --peer only mascot runs, and the output says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mascot.models.families.sd import StableDiffusionStage
    from mascot.protocols import Stage

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "examples" / "mascot" / "photos"
OURS = """
import sys, mascot
base, photos, out, steps, batch, resolution = sys.argv[1:7]
recipe = mascot.Recipe.preset(base=base, photos=(photos,), overrides=[
    f"training.steps={steps}", f"training.batch_size={batch}", "training.checkpoint_every=100000",
    "training.warmup_steps=0", f"dataset.resolution={resolution}", "dataset.templates=['a photo of sks owl']",
    "method.rank=16", "method.layers=attention", "method.text_learning_rate=0", "method.learning_rate=1e-4",
    "prior.count=0", "previews.every=0", "precision=bf16"])
mascot.train(recipe, out=out, report=False)
"""
"""Mascot's side as a program; its arguments are in the second line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One program of the comparison."""

    name: str
    command: list[str]
    """With `{out}` and `{steps}` to fill in."""
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What both programs train."""

    base: str
    photos: Path
    batch: int
    resolution: int
    """Pixels along each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Speed and memory from one pair of runs."""

    steps_per_second: float
    peak_megabytes: float


def run_program(side: Side, steps: int, folder: Path) -> tuple[float, float]:
    """Run one program to the end and return its seconds and its peak resident memory in MB.

    Raises:
        SystemExit: the program failed.
    """
    out = str(folder / f"{steps}-{time.monotonic_ns()}")
    command = [{"{out}": out, "{steps}": str(steps)}.get(word, word) for word in side.command]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(side.threads),
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(ROOT / "src"),
    }
    with (folder / "log.txt").open("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 - this file's own words
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            log.seek(0)
            raise SystemExit(f"{side.name} failed:\n{log.read()[-3000:]}")
    return seconds, usage.ru_maxrss / 1024


def measure(side: Side, short: int, long: int, folder: Path) -> Measured:
    """Measure the speed from the difference of a short and a long run."""
    few, _ = run_program(side, short, folder)
    many, peak = run_program(side, long, folder)
    return Measured(steps_per_second=(long - short) / max(1e-9, many - few), peak_megabytes=peak)


def our_side(work: Work, threads: int) -> Side:
    """Return mascot, called from Python."""
    values = [work.base, str(work.photos), "{out}", "{steps}", str(work.batch), str(work.resolution)]
    name = f"ours, {threads} thread{'s' * (threads > 1)}"
    return Side(name=name, command=[sys.executable, "-c", OURS, *values], threads=threads)


def peer_side(script: Path, runner: Path, work: Work, threads: int) -> Side:
    """Return the example script of diffusers with its best settings; `work.base` is a folder."""
    options = {
        "pretrained_model_name_or_path": work.base,
        "instance_data_dir": str(work.photos),
        "instance_prompt": "a photo of sks owl",
        "output_dir": "{out}",
        "resolution": str(work.resolution),
        "train_batch_size": str(work.batch),
        "max_train_steps": "{steps}",
        "rank": "16",
        "learning_rate": "1e-4",
        "lr_scheduler": "constant",
        "lr_warmup_steps": "0",
        "seed": "0",
        "mixed_precision": "bf16",
        "checkpointing_steps": "100000",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(runner), str(script), *words, "--pre_compute_text_embeddings"]
    return Side(name=f"peer, {threads} thread{'s' * (threads > 1)}", command=command, threads=threads)


def matmul_peak(dtype: torch.dtype, side: int = 2048, seconds: float = 2.0) -> float:
    """Measure the machine's matmul speed in GFLOP/s."""
    a = torch.randn(side, side).to(dtype)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        _ = a @ a
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - started) / 1e9


def flops_of_a_step(unet: Any, batch: int, cells: int, tokens: int) -> float:
    """Count the GFLOP of one step of a UNet whose weights are frozen except for a LoRA.

    Forward and backward pass cost about twice the forward pass.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        unet(
            torch.zeros(batch, unet.config.in_channels, cells, cells),
            torch.zeros(batch, dtype=torch.long),
            torch.zeros(batch, tokens, unet.config.cross_attention_dim),
        )
    return 2 * counter.get_total_flops() / 1e9


def large_stage(cells: int) -> StableDiffusionStage:
    """Make a stage with a random UNet of Stable Diffusion 1.5's size and no text encoder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from torch import nn

    from mascot.models.autoencoder import PixelSpace
    from mascot.models.families.sd import StableDiffusionStage

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=cells)
    unet = unet.to_empty(device="cpu").to(torch.bfloat16).requires_grad_(requires_grad=False).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(std=0.02)
    size = sum(p.numel() for p in unet.parameters()) / 1e6
    print(f"SD-1.5-sized UNet: {size:.0f} M parameters, {cells}x{cells} latents, batch 1, bf16")
    return StableDiffusionStage(
        source="random",
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        unet=unet,
        tokenizers={},
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        image_codec=PixelSpace(),
        load_text_encoder=nn.Identity,
        encoders=(),
    )


def large_steps(steps: int, cells: int = 64) -> Iterator[float]:
    """Yield the seconds of each LoRA step of mascot's loop on the large UNet, batch 1, bf16."""
    from accelerate import Accelerator

    from mascot.diffusion.noise import seeded
    from mascot.methods.lora import LoraSettings
    from mascot.protocols import Batch, Framing, Latents, Subject
    from mascot.training.loop import Loop
    from mascot.training.settings import TrainingSettings

    stage = large_stage(cells)
    attached = LoraSettings(text_learning_rate=0).attach(stage, Subject("sks"), 0, None)
    states = torch.randn(1, 77, 768)
    loop = Loop(
        stage,
        attached,
        TrainingSettings(steps=steps),
        lambda _prompts, _framings: {"encoder_hidden_states": states},
        Accelerator(cpu=True, mixed_precision="bf16"),
    )
    zeros = torch.zeros(1, 4, cells, cells)

    def batches(number: int) -> list[Batch]:
        return [
            Batch(
                latents=Latents(mean_BCHW=zeros, deviation_BCHW=zeros + 1),
                prompts=("",),
                framings=(Framing(original=(512, 512), target=(512, 512)),),
                weight_B=torch.ones(1),
                subject_count=1,
                generators=(seeded(number),),
            )
        ]

    for step in loop.steps(batches):
        yield step.seconds


def report_large(steps: int, peak: float) -> None:
    """Print the speed of the large UNet and its share of the matmul peak in GFLOP/s."""
    from diffusers import UNet2DConditionModel

    seconds = list(large_steps(steps))
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        flops = flops_of_a_step(unet, 1, 64, 77)
    best = min(seconds)
    speed = flops / best
    share = f"{speed:.0f} GFLOP/s = {100 * speed / peak:.0f} % of the bf16 matmul peak"
    print(f"  {best:.1f} s a step (best of {steps}), {flops:.0f} GFLOP, {share}")


def best_of(results: dict[str, list[Measured]], kind: str) -> float:
    """Return the median speed of a side at its better number of threads; 0 if it did not run."""
    medians = [
        statistics.median(m.steps_per_second for m in found) for name, found in results.items() if name.startswith(kind)
    ]
    return max(medians, default=0.0)


def measure_sides(sides: list[Side], options: argparse.Namespace) -> dict[str, list[Measured]]:
    """Run all sides in turn, several rounds, and return the measurements by name."""
    results: dict[str, list[Measured]] = {side.name: [] for side in sides}
    with TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for side in sides:
                found = measure(side, options.short, options.long, Path(folder))
                results[side.name].append(found)
                numbers = f"{found.steps_per_second:.2f} steps/s, {found.peak_megabytes:.0f} MB"
                print(f"round {number + 1}: {side.name}: {numbers}", flush=True)
    return results


def report_sides(results: dict[str, list[Measured]], work: Work, rounds: int) -> None:
    """Print each side's median speed with its range, and its peak memory."""
    print(f"\nbatch {work.batch}, {work.resolution} px, rank 16, attention, bf16; median of {rounds} rounds")
    for name, found in results.items():
        speeds = sorted(m.steps_per_second for m in found)
        memory = statistics.median(m.peak_megabytes for m in found)
        median = f"{statistics.median(speeds):6.2f} steps/s ({speeds[0]:.2f} to {speeds[-1]:.2f})"
        print(f"  {name:18} {median}, peak {memory:.0f} MB")
    best = {kind: best_of(results, kind) for kind in ("ours", "peer")}
    if best["peer"]:
        print(f"  ours / peer, each at its better number of threads: {best['ours'] / best['peer']:.2f}")


def report_peak(work: Work, steps_per_second: float, peak: float) -> None:
    """Print the GFLOP of a step and mascot's share of the matmul peak in GFLOP/s."""
    from mascot.models.families.registry import load_family

    stage = load_family(work.base, device="cpu", precision="fp32").stages[0]
    cells = stage.latent_shape(work.resolution, work.resolution)[1]
    flops = flops_of_a_step(stage.parts[stage.denoiser], work.batch, cells, prompt_tokens(stage))
    speed = flops * steps_per_second
    share = f"{speed:.0f} GFLOP/s = {100 * speed / peak:.0f} % of the bf16 matmul peak here, {peak:.0f} GFLOP/s"
    print(f"  {flops:.1f} GFLOP a step, {share}")


def prompt_tokens(stage: Stage) -> int:
    """Number of tokens of a prompt that the denoiser reads."""
    from mascot.protocols import Framing

    framing = Framing(original=(512, 512), target=(512, 512))
    return stage.condition([""], [framing])["encoder_hidden_states"].shape[1]


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="diffusers' examples/dreambooth/train_dreambooth_lora.py")
    parser.add_argument("--runner", type=Path, default=ROOT.parent / "shared" / "tools" / "peers" / "run_peer.py")
    parser.add_argument("--base", default="starter")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--batch", type=int, default=4, help="batch size")
    parser.add_argument("--resolution", type=int, default=64, help="pixels along each side")
    parser.add_argument("--short", type=int, default=20, help="steps of the short run")
    parser.add_argument("--long", type=int, default=140, help="steps of the long run")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--large", action="store_true", help="also a UNet of Stable Diffusion 1.5's size")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    options = read_options()
    from mascot.models.families.base_source import source_of

    work = Work(base=options.base, photos=options.photos, batch=options.batch, resolution=options.resolution)
    sides = [our_side(work, threads) for threads in (1, 2)]
    if options.peer is None:
        print("no --peer was given: only our side runs")
    else:
        peer_work = Work(base=source_of(work.base), photos=work.photos, batch=work.batch, resolution=work.resolution)
        sides += [peer_side(options.peer, options.runner, peer_work, threads) for threads in (1, 2)]
    results = measure_sides(sides, options)
    report_sides(results, work, options.rounds)
    peak = matmul_peak(torch.bfloat16)
    report_peak(work, best_of(results, "ours"), peak)
    if options.large:
        report_large(3, peak)


if __name__ == "__main__":
    main()
