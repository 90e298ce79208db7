"""What makes the embedded base learn faster: equal minutes on one core, one change at a time, from random weights.

`python benchmarks/learning.py --work starter_work --minutes 6 --optimizer muon --learning_rate 2e-3`, and again with another setting, on a machine
with nothing else to do (two at once on two cores: `--core 0` and `--core 1`). The loss is that of 256 scenes no training draws, at
the same noise levels with the same noise each time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))  # the recipe is a part of the checkout and is never installed

from starter_recipe.autoencoder import to_pixels
from starter_recipe.base import Pool, make_base, make_scheduler, velocity_loss
from starter_recipe.replicas import Clock, Replica, learning_scale, share
from starter_recipe.world import World

HELD = 256
POOLED = 2048
"""Scenes at hand before the clock starts."""


def held_out(world: World, pool: Pool, difficulty: float) -> tuple[Tensor, Tensor]:
    """Latents and token ids of scenes that no training draws."""
    rng = np.random.default_rng([3, 3])
    scenes = [world.compose(rng, difficulty) for _ in range(HELD)]
    vae: Any = pool.vae
    with torch.no_grad():
        latents = vae.encode(to_pixels([image for image, _ in scenes])).latent_dist.mean * vae.config.scaling_factor
    return latents, pool.tokenize([caption for _, caption in scenes])


def main(  # noqa: PLR0917 - the command's options
    work: Annotated[Path, typer.Option(help="The recipe's folder, with drawings, tokenizer and autoencoder.")] = Path(
        "starter_work"
    ),
    minutes: float = 6,
    optimizer: Literal["adam", "muon"] = "muon",
    learning_rate: float = 2e-3,
    batch: int = 64,
    difficulty: Annotated[float, typer.Option(help="0: one centred drawing; 1: the whole grammar.")] = 0.0,
    core: Annotated[int | None, typer.Option(help="Stay on this core.")] = None,
) -> None:
    """Train the base from random weights for some minutes and print the held-out loss every minute."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer, vae = (
        CLIPTokenizer.from_pretrained(work / "tokenizer"),
        AutoencoderKL.from_pretrained(work / "vae").eval(),
    )
    modules: list[Any] = list(make_base(tokenizer))
    shared = share(modules, 1, torch.device("cpu"), torch.multiprocessing.get_context("spawn"))
    replica = Replica(modules, shared, 0, learning_rate=learning_rate, betas=(0.9, 0.98), optimizer=optimizer)
    world = World(work / "drawings.npz")
    pool = Pool(world, vae, tokenizer, torch.device("cpu"), [5, 0])
    while pool.filled < POOLED:
        pool.add(64, difficulty)
    held, alphas, noise = (
        held_out(world, pool, difficulty),
        make_scheduler().alphas_cumprod,
        torch.Generator().manual_seed(0),
    )
    clock, step, told = Clock(minutes, 0.0), 0, 0.0

    def tell() -> None:
        with torch.no_grad():
            loss = velocity_loss((modules[0], modules[1]), alphas, *held, torch.Generator().manual_seed(0)).item()
        print(f"{clock.seconds / 60:.1f} min, step {step}, held-out loss {loss:.4f}", flush=True)

    while clock.fraction < 1:
        if step % 3 == 0:
            pool.add(batch, difficulty)
        velocity_loss((modules[0], modules[1]), alphas, *pool.draw(batch), noise).backward()
        replica.step(learning_scale(clock.fraction, step, warmup=50))
        step += 1
        if clock.seconds >= told + 60:
            told = clock.seconds
            tell()
    tell()


if __name__ == "__main__":
    typer.run(main)
