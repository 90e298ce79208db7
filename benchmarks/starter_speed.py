"""Measure what makes the embedded base train faster, in equal minutes on one core.

    python benchmarks/starter_speed.py --minutes 6 --optimizer muon --learning-rate 2e-3

Repeat with one changed setting, from random weights, on an otherwise idle machine; two runs at once
on two cores need `--core 0` and `--core 1`. The loss is that of 256 scenes that are never trained
on, at the same timesteps with the same noise each time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))  # starter_training is in the checkout alone, never installed

from starter_training.data_parallel import Clock, Replica, learning_rate_scale, share
from starter_training.models.base import LatentPool, make_base, make_scheduler, validation_batch, velocity_loss
from starter_training.scenes.world import World

VALIDATION_SCENES = 256
POOLED = 2048
"""Scenes in the pool before the clock starts."""


def main(  # noqa: PLR0917 - the command's options
    work: Annotated[Path, typer.Option(help="Folder with drawings, tokenizer and autoencoder.")] = Path("starter_work"),
    minutes: float = 6,
    optimizer: Literal["adam", "muon"] = "muon",
    learning_rate: float = 2e-3,
    batch: int = 64,
    difficulty: Annotated[float, typer.Option(help="0: one centered drawing; 1: the whole grammar.")] = 0.0,
    core: Annotated[int | None, typer.Option(help="Run on this core only.")] = None,
) -> None:
    """Train the base from random weights and print the validation loss every minute."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cpu, tokenizer = torch.device("cpu"), CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text = make_base(tokenizer)
    shared = share([unet, text], 1, cpu, torch.multiprocessing.get_context("spawn"))
    replica = Replica([unet, text], shared, 0, learning_rate=learning_rate, betas=(0.9, 0.98), optimizer=optimizer)
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    pool = LatentPool(World(work / "drawings.npz"), vae, tokenizer, cpu, [5, 0], size=POOLED)
    while pool.filled < POOLED:
        pool.add(64, difficulty)
    validation = validation_batch(pool, VALIDATION_SCENES, difficulty)
    alphas, noise = make_scheduler().alphas_cumprod, torch.Generator().manual_seed(0)
    clock, step, printed = Clock(minutes, 0.0), 0, 0.0

    def print_loss() -> None:
        with torch.no_grad():
            loss = velocity_loss((unet, text), alphas, *validation, torch.Generator().manual_seed(0)).item()
        print(f"{clock.seconds / 60:.1f} min, step {step}, validation loss {loss:.4f}", flush=True)

    while clock.fraction < 1:
        if step % 3 == 0:
            pool.add(batch, difficulty)
        velocity_loss((unet, text), alphas, *pool.draw(batch), noise).backward()
        replica.step(learning_rate_scale(clock.fraction, step, warmup=50))
        step += 1
        if clock.seconds >= printed + 60:
            printed = clock.seconds
            print_loss()
    print_loss()


if __name__ == "__main__":
    typer.run(main)
