"""Train the starter's autoencoder on composed scenes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from starter_recipe.replicas import Clock, Replica, Shared, launch, learning_scale, point_at, with_defaults
from starter_recipe.world import World

BATCH = 16
"""Pictures a step, over all replicas."""


def make_autoencoder() -> AutoencoderKL:
    """64 px -> 16 x 16 x 4: factor 4, no attention, no quantisation convolutions."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
        use_quant_conv=False, use_post_quant_conv=False, sample_size=64,
    )  # fmt: skip


def to_pixels(pictures: list[object]) -> Tensor:
    """Stack PIL pictures as B x 3 x H x W in -1..1."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(answer: Tensor, pixels: Tensor) -> Tensor:
    """L1 + MSE + half the L1 of the gradients: the last keeps outlines and faces."""
    across = F.l1_loss(answer.diff(dim=-1), pixels.diff(dim=-1))
    down = F.l1_loss(answer.diff(dim=-2), pixels.diff(dim=-2))
    return F.l1_loss(answer, pixels) + F.mse_loss(answer, pixels) + 0.5 * (across + down)


def measure(model: AutoencoderKL, world: World, count: int = 256) -> float:
    """PSNR in dB on scenes that training never draws."""
    stream = world.stream([9, 9])
    with torch.no_grad():
        pixels = to_pixels([next(stream)[0] for _ in range(count)])
        answer = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return -10 * math.log10(((answer - pixels) / 2).square().mean().item())


def train_replica(rank: int, shared: Shared, work: Path, minutes: float) -> None:
    """One process of the training."""
    device = shared.parameters.device
    with_defaults(rank, device)
    model = make_autoencoder().to(device)
    replica = Replica([model], shared, rank, learning_rate=2e-3, betas=(0.9, 0.99))
    folder = work / "autoencoder"
    folder.mkdir(exist_ok=True)
    progress = replica.resume(folder)
    clock, step = Clock(minutes, progress["seconds"]), int(progress["step"])
    world = World(work / "drawings.npz")
    stream = world.stream([1, rank, step])
    while clock.fraction < 1:
        pixels = to_pixels([next(stream)[0] for _ in range(BATCH // replica.count)]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            answer = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(answer.float(), pixels) + 1e-6 * posterior.kl().mean()
        loss.backward()
        replica.step(learning_scale(clock.fraction, step), decay=0.998)
        step += 1
        if step % 500 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})
            if rank == 0:
                print(
                    f"step {step} {clock.seconds / 60:.1f} min loss {loss.item():.4f} {measure(model, world, 64):.2f} dB",
                    flush=True,
                )
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})


def train_autoencoder(work: Path, minutes: float, replicas: int) -> None:
    """Train for a budget of minutes, resuming what is there; write `work/autoencoder` as a diffusers folder, averaged weights."""
    torch.manual_seed(0)
    model = make_autoencoder()
    launch(train_replica, [model], replicas, work, minutes)
    saved = torch.load(work / "autoencoder" / "weights.pt", weights_only=True)
    point_at([model], saved["average"])
    model.eval()
    world = World(work / "drawings.npz")
    stream = world.stream([8, 8])
    with torch.no_grad():
        latents = model.encode(to_pixels([next(stream)[0] for _ in range(512)])).latent_dist.sample()
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    model.save_pretrained(work / "vae")
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {measure(model, world):.2f} dB, scaling factor {model.config.scaling_factor}"
    )
