"""Steps a second and peak memory of LoRA training: ours beside a peer's script, on the same work, alternating in one run.

    python benchmarks/training.py --peer PATH/TO/train_dreambooth_lora.py --runner ../shared/tools/peers/run_peer.py
    python benchmarks/training.py --large        # also a Stable-Diffusion-1.5-sized UNet with random weights

Both train a rank-16 LoRA on the UNet's attention of one base, the same photos, batch, resolution and steps; the peer with its best
settings (bf16, precomputed text). A rate is taken from the difference between a long and a short run of the whole program, so that
starting up, loading and saving cancel out. Without --peer only our side runs, and the table says so.
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
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "examples" / "mascot" / "photos"
OURS = """
import sys, mascot
base, photos, out, steps, batch, resolution = sys.argv[1:7]
recipe = mascot.Recipe.preset(base=base, photos=(photos,), overrides=[
    f"training.steps={steps}", f"training.batch_size={batch}", "training.checkpoint_every=100000", "training.warmup_steps=0",
    f"dataset.resolution={resolution}", "method.rank=16", "method.layers=attention", "method.text_learning_rate=0", "method.learning_rate=1e-4",
    "prior.count=0", "previews.every=0", "precision=bf16", "dataset.templates=['a photo of sks owl']"])
mascot.train(recipe, out=out, report=False)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One program of the comparison."""

    name: str
    command: list[str]
    """With `{out}` and `{steps}` to fill in."""
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one pair of runs showed."""

    steps_per_second: float
    peak_megabytes: float


def run_program(side: Side, steps: int, folder: Path) -> tuple[float, float]:
    """Run one program to the end; give its seconds and its peak resident memory in MB."""
    out = str(folder / f"{steps}-{time.monotonic_ns()}")
    command = [{"{out}": out, "{steps}": str(steps)}.get(word, word) for word in side.command]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(side.threads),
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(ROOT / "src"),
    }
    with (folder / "log.txt").open("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 - the arguments are this file's own
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            log.seek(0)
            raise SystemExit(f"{side.name} failed:\n{log.read()[-3000:]}")
    return seconds, usage.ru_maxrss / 1024


def measure(side: Side, short: int, long: int, folder: Path) -> Measured:
    """Take the rate from the difference of two runs."""
    few, _ = run_program(side, short, folder)
    many, peak = run_program(side, long, folder)
    return Measured(steps_per_second=(long - short) / max(1e-9, many - few), peak_megabytes=peak)


def our_side(*, base: str, photos: Path, batch: int, resolution: int, threads: int) -> Side:
    """The package, called from Python."""
    command = [sys.executable, "-c", OURS, base, str(photos), "{out}", "{steps}", str(batch), str(resolution)]
    return Side(name=f"ours, {threads} thread{'s' * (threads > 1)}", command=command, threads=threads)


def peer_side(
    script: Path, runner: Path, *, base: str, photos: Path, batch: int, resolution: int, threads: int
) -> Side:
    """The example of diffusers, a script script at its best settings."""
    options = {
        "pretrained_model_name_or_path": base, "instance_data_dir": str(photos), "instance_prompt": "a photo of sks owl",
        "output_dir": "{out}", "resolution": str(resolution), "train_batch_size": str(batch), "max_train_steps": "{steps}",
        "rank": "16", "learning_rate": "1e-4", "lr_scheduler": "constant", "lr_warmup_steps": "0", "seed": "0",
        "mixed_precision": "bf16", "checkpointing_steps": "100000",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(runner), str(script), *words, "--pre_compute_text_embeddings"]
    return Side(name=f"peer, {threads} thread{'s' * (threads > 1)}", command=command, threads=threads)


def matmul_peak(dtype: torch.dtype, side: int = 2048, seconds: float = 2.0) -> float:
    """The machine's own matmul rate in GFLOP/s."""
    a = torch.randn(side, side).to(dtype)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        _ = a @ a
        count += 1
    return 2 * side**3 * count / (time.perf_counter() - started) / 1e9


def flops_of_a_step(unet: Any, batch: int, cells: int, tokens: int) -> float:
    """GFLOP of one forward and backward pass of a UNet whose weights are frozen but for a LoRA: about twice the forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        unet(
            torch.zeros(batch, unet.config.in_channels, cells, cells),
            torch.zeros(batch, dtype=torch.long),
            torch.zeros(batch, tokens, unet.config.cross_attention_dim),
        )
    return 2 * counter.get_total_flops() / 1e9


def large_steps(steps: int, cells: int = 64) -> Iterator[float]:
    """Seconds of each LoRA step on a UNet of Stable Diffusion 1.5's size with random weights, batch 1, bf16, through our loop."""
    from accelerate import Accelerator
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from torch import nn

    from mascot.diffusion.noise import seeded
    from mascot.methods.lora import LoraSettings
    from mascot.models.autoencoder import PixelSpace
    from mascot.models.families.sd import StableDiffusionStage
    from mascot.protocols import Batch, Framing, Latents, Subject
    from mascot.training.loop import Loop
    from mascot.training.settings import TrainingSettings

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=cells)
    unet = unet.to_empty(device="cpu").to(torch.bfloat16).requires_grad_(requires_grad=False).eval()
    for parameter in unet.parameters():
        parameter.data.normal_(std=0.02)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    stage = StableDiffusionStage(
        source="random", device=torch.device("cpu"), dtype=torch.bfloat16, unet=unet, tokenizers={}, scheduler=scheduler,
        image_codec=PixelSpace(), load_text_encoder=nn.Identity, encoders=(),
    )  # fmt: skip  # pyright: ignore[reportArgumentType]
    print(
        f"SD-1.5-sized UNet: {sum(p.numel() for p in unet.parameters()) / 1e6:.0f} M parameters, {cells}x{cells} latents, batch 1, bf16"
    )
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
    framing = Framing(original=(512, 512), target=(512, 512))

    def batches(number: int) -> list[Batch]:
        latents = Latents(mean_BCHW=zeros, deviation_BCHW=zeros + 1)
        return [
            Batch(
                latents=latents,
                prompts=("",),
                framings=(framing,),
                weight_B=torch.ones(1),
                subject_count=1,
                generators=(seeded(number),),
            )
        ]

    for step in loop.steps(batches):
        yield step.seconds


def report_large(steps: int, peak: float) -> None:
    """Print the rate of the large UNet and its share of the matmul peak."""
    from diffusers import UNet2DConditionModel

    seconds = list(large_steps(steps))
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), counter:
        unet(torch.zeros(1, 4, 64, 64), torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 768))
    work = 2 * counter.get_total_flops() / 1e9
    best = min(seconds)
    learning_rate = work / best
    share = 100 * learning_rate / peak
    print(
        f"  {best:.1f} s a step (best of {steps}), {work:.0f} GFLOP, {learning_rate:.0f} GFLOP/s = {share:.0f} % of the bf16 matmul peak"
    )


def best_of(results: dict[str, list[Measured]], kind: str) -> float:
    """The median rate of a side at its better number of threads; 0 where it did not run."""
    medians = [
        statistics.median(m.steps_per_second for m in found) for name, found in results.items() if name.startswith(kind)
    ]
    return max(medians, default=0.0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="diffusers' examples/dreambooth/train_dreambooth_lora.py")
    parser.add_argument("--runner", type=Path, default=ROOT.parent / "shared" / "tools" / "peers" / "run_peer.py")
    parser.add_argument("--base", default="starter")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--short", type=int, default=20)
    parser.add_argument("--long", type=int, default=140)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also a UNet of Stable Diffusion 1.5's size")
    options = parser.parse_args()
    from mascot.models.families.base_source import source_of
    from mascot.models.families.registry import load_family

    work: dict[str, Any] = {"photos": options.photos, "batch": options.batch, "resolution": options.resolution}
    sides = [our_side(base=options.base, **work, threads=threads) for threads in (1, 2)]
    if options.peer is None:
        print("no --peer was given: only our side runs")
    else:
        sides += [
            peer_side(options.peer, options.runner, base=source_of(options.base), **work, threads=threads)
            for threads in (1, 2)
        ]
    results: dict[str, list[Measured]] = {side.name: [] for side in sides}
    with TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for side in sides:
                found = measure(side, options.short, options.long, Path(folder))
                results[side.name].append(found)
                print(
                    f"round {number + 1}: {side.name}: {found.steps_per_second:.2f} steps/s, {found.peak_megabytes:.0f} MB",
                    flush=True,
                )
    print(
        f"\nbatch {options.batch}, {options.resolution} px, rank 16, attention, bf16; median of {options.rounds} rounds"
    )
    for name, found in results.items():
        rates = sorted(m.steps_per_second for m in found)
        memory = statistics.median(m.peak_megabytes for m in found)
        print(
            f"  {name:18} {statistics.median(rates):6.2f} steps/s ({rates[0]:.2f} to {rates[-1]:.2f}), peak {memory:.0f} MB"
        )
    best = {kind: best_of(results, kind) for kind in ("ours", "peer")}
    if best["peer"]:
        print(f"  ours / peer, each at its better number of threads: {best['ours'] / best['peer']:.2f}")
    peak = matmul_peak(torch.bfloat16)
    stage = load_family(options.base, device="cpu", precision="fp32").stages[0]
    cells = stage.latent_shape(options.resolution, options.resolution)[1]
    flops = flops_of_a_step(stage.parts[stage.denoiser], options.batch, cells, stage.prompt_length("")[1])
    done = flops * best["ours"]
    print(
        f"  {flops:.1f} GFLOP a step, {done:.0f} GFLOP/s = {100 * done / peak:.0f} % of the bf16 matmul peak here, {peak:.0f} GFLOP/s"
    )
    if options.large:
        report_large(3, peak)


if __name__ == "__main__":
    main()
