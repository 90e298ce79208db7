"""Train the starter's autoencoder on composed scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from starter_training.data_parallel import (
    Clock,
    Replica,
    SharedBuffers,
    launch,
    learning_rate_scale,
    pin_to_core,
    point_at,
)
from starter_training.scenes.scene_grammar import stream
from starter_training.scenes.world import World

BATCH = 16
"""Images in a step, over all replicas."""


def make_autoencoder() -> AutoencoderKL:
    """Make an autoencoder of 64 px to 16 x 16 x 4 with random weights.

    It has a downsampling factor of 4, no attention and no quantization convolutions.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Stack PIL images. Shape B x 3 x H x W, range -1..1."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(prediction: Tensor, pixels: Tensor) -> Tensor:
    """Sum L1, MSE and half the L1 of the gradients; the last keeps outlines and faces sharp."""
    across = F.l1_loss(prediction.diff(dim=-1), pixels.diff(dim=-1))
    down = F.l1_loss(prediction.diff(dim=-2), pixels.diff(dim=-2))
    return F.l1_loss(prediction, pixels) + F.mse_loss(prediction, pixels) + 0.5 * (across + down)


def measure_psnr(model: AutoencoderKL, world: World, count: int = 256) -> float:
    """Measure the PSNR in dB on `count` scenes that are never trained on."""
    scenes = stream(world, [9, 9])
    with torch.no_grad():
        pixels = to_pixels([next(scenes)[0] for _ in range(count)])
        prediction = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return -10 * math.log10(((prediction - pixels) / 2).square().mean().item())


def train_replica(rank: int, shared: SharedBuffers, work: Path, minutes: float) -> None:
    """Run one replica of the training."""
    device = shared.parameters.device
    pin_to_core(rank, device)
    model = make_autoencoder().to(device)
    replica = Replica([model], shared, rank, learning_rate=2e-3, betas=(0.9, 0.99))
    folder = work / "autoencoder"
    folder.mkdir(exist_ok=True)
    progress = replica.resume(folder)
    clock, step = Clock(minutes, progress["seconds"]), int(progress["step"])
    world = World(work / "drawings.npz")
    scenes = stream(world, [1, rank, step])
    while clock.fraction < 1:
        pixels = to_pixels([next(scenes)[0] for _ in range(BATCH // replica.count)]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            prediction = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(prediction.float(), pixels) + 1e-6 * posterior.kl().mean()
        loss.backward()
        replica.step(learning_rate_scale(clock.fraction, step), decay=0.998)
        step += 1
        if step % 500 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})
            if rank == 0:
                trained = f"step {step} {clock.seconds / 60:.1f} min"
                print(f"{trained} loss {loss.item():.4f} {measure_psnr(model, world, 64):.2f} dB", flush=True)
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})


def train_autoencoder(work: Path, minutes: float, replicas: int) -> None:
    """Train for a budget of minutes, resuming from a checkpoint.

    Writes `work/vae`, a diffusers folder with the averaged weights and their scaling factor.
    """
    torch.manual_seed(0)
    model = make_autoencoder()
    launch(train_replica, [model], replicas, work, minutes)
    saved = torch.load(work / "autoencoder" / "weights.pt", weights_only=True)
    point_at([model], saved["average"])
    model.eval()
    world = World(work / "drawings.npz")
    scenes = stream(world, [8, 8])
    with torch.no_grad():
        latents = model.encode(to_pixels([next(scenes)[0] for _ in range(512)])).latent_dist.sample()
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    model.save_pretrained(work / "vae")
    parameters = sum(p.numel() for p in model.parameters())
    quality = f"{measure_psnr(model, world):.2f} dB, scaling factor {model.config.scaling_factor}"
    print(f"{parameters / 1e6:.2f} M parameters, {quality}")
