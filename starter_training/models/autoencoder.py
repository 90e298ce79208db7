"""Train the starter's autoencoder on composed scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from starter_training.models.encoders import wide_world
from starter_training.scenes.augmentations import crowd
from starter_training.scenes.canvas import Rng
from starter_training.scenes.scene_grammar import compose, stream
from starter_training.scenes.world import World

BATCH = 16
"""Images in a step, over all replicas."""
SIDE = 128
"""Pixels along each side of an image."""
LATENT_CHANNELS = 8
CROWDED = 0.35
"""Share of images that show a crowd of small drawings."""
LATENT_NOISE = 0.2
"""Largest standard deviation of the noise that the decoder has to bear.

The UNet's latents are never exact. Latents have a standard deviation of 1.3.
"""


def make_autoencoder() -> AutoencoderKL:
    """Make an autoencoder of 128 px to 16 x 16 x 8 with random weights.

    It has a downsampling factor of 8, no attention and no quantization convolutions. Most of its
    parameters work at 16 x 16, where they cost least.
    """
    widths = (16, 32, 64, 96)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=SIDE,
    )


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Stack PIL images. Shape B x 3 x H x W, range -1..1."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(prediction: Tensor, pixels: Tensor) -> Tensor:
    """Sum L1, MSE and half the L1 of the gradients; the last keeps outlines and faces sharp."""
    across = F.l1_loss(prediction.diff(dim=-1), pixels.diff(dim=-1))
    down = F.l1_loss(prediction.diff(dim=-2), pixels.diff(dim=-2))
    return F.l1_loss(prediction, pixels) + F.mse_loss(prediction, pixels) + 0.5 * (across + down)


def measure_psnr(model: AutoencoderKL, world: World, count: int = 128) -> float:
    """Measure the PSNR in dB on `count` scenes that are never trained on."""
    scenes = stream(world, [9, 9])
    with torch.no_grad():
        pixels = to_pixels([next(scenes)[0] for _ in range(count)])
        prediction = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return -10 * math.log10(((prediction - pixels) / 2).square().mean().item())


def latent_loss(model: AutoencoderKL, earlier: AutoencoderKL, means_BCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """Return the MSE between a model's first latent channels and an earlier autoencoder's latents.

    The earlier one encodes the image at the size for which its latents have as many cells. A UNet
    that was trained on those can continue on the new ones.
    """
    shrink = 2 ** (len(model.config.block_out_channels) - len(earlier.config.block_out_channels))
    with torch.no_grad():
        target = earlier.encode(F.avg_pool2d(pixels_BCHW, shrink)).latent_dist.mean.float()
    return F.mse_loss(means_BCHW[:, : target.shape[1]].float(), target)


def training_image(worlds: tuple[World, World], rng: Rng) -> Image.Image:
    """Compose a scene of the base's world or of all drawings, or a crowd of these."""
    base, wide = worlds
    chance = rng.random()
    if chance < CROWDED:
        return crowd(wide, rng)
    return compose(base if chance < (1 + CROWDED) / 2 else wide, rng)[0]


def train_replica(  # noqa: PLR0917 - called by `launch`
    rank: int, shared: SharedBuffers, work: Path, minutes: float, learning_rate: float, start: Path | None
) -> None:
    """Run one replica of the training."""
    device = shared.parameters.device
    pin_to_core(rank, device)
    model = make_autoencoder().to(device)
    earlier = None if start is None else AutoencoderKL.from_pretrained(start, subfolder="vae").float().to(device).eval()
    replica = Replica([model], shared, rank, learning_rate=learning_rate, betas=(0.9, 0.99))
    folder = work / "autoencoder"
    folder.mkdir(exist_ok=True)
    progress = replica.resume(folder)
    clock, step = Clock(minutes, progress["seconds"]), int(progress["step"])
    worlds = (World(work / "drawings.npz"), wide_world(work, SIDE))
    rng = np.random.default_rng([1, rank, step])
    generator = torch.Generator(device).manual_seed(1000 * step + rank)
    while (fraction := replica.spent(clock)) < 1:
        pixels = to_pixels([training_image(worlds, rng) for _ in range(BATCH // replica.count)]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            latents = posterior.sample(generator)
            noise = torch.randn(latents.shape, generator=generator, device=device)
            strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator, device=device)
            prediction = model.decode(latents + strength * noise).sample
            loss = reconstruction_loss(prediction.float(), pixels) + 1e-6 * posterior.kl().mean()
            if earlier is not None:
                loss = loss + 0.1 * latent_loss(model, earlier, posterior.mean, pixels)
        loss.backward()
        replica.step(learning_rate_scale(fraction, step), decay=min(0.998, (1 + step) / (10 + step)))
        step += 1
        if step % 100 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})
            if rank == 0:
                trained = f"step {step} {clock.seconds / 60:.1f} min"
                print(f"{trained} loss {loss.item():.4f} {measure_psnr(model, worlds[0], 64):.2f} dB", flush=True)
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": progress["begun"]})


def equalize(model: AutoencoderKL, latents_BCHW: Tensor, kept: int = 0) -> None:
    """Give latent channels one standard deviation, and set the scaling factor.

    The encoder's last and the decoder's first convolution take up the scales, so that images stay
    the same.

    Args:
        model: the trained autoencoder.
        latents_BCHW: latents of many scenes.
        kept: the first channels, which stay as they are; the others get their standard deviation.
    """
    usual = latents_BCHW[:, :kept].std() if kept else latents_BCHW.std()
    scale_C = usual / latents_BCHW.std((0, 2, 3))
    scale_C[:kept] = 1
    encoder, decoder, count = model.encoder.conv_out, model.decoder.conv_in, len(scale_C)
    assert encoder.bias is not None
    with torch.no_grad():
        encoder.weight[:count] *= scale_C.view(-1, 1, 1, 1)
        encoder.bias[:count] *= scale_C
        encoder.bias[count:] += 2 * scale_C.log()
        decoder.weight /= scale_C.view(1, -1, 1, 1)
    model.register_to_config(scaling_factor=round(1 / usual.item(), 5))


def train_autoencoder(
    work: Path, *, minutes: float, replicas: int, learning_rate: float, start: Path | None = None
) -> None:
    """Train for a budget of minutes, resuming from a checkpoint.

    Writes `work/vae`, a diffusers folder with the averaged weights and their scaling factor.

    Args:
        work: the folder of the training.
        minutes: the budget.
        replicas: how many processes train.
        learning_rate: the peak learning rate.
        start: an earlier base, whose latents the first channels shall be.
    """
    torch.manual_seed(0)
    model = make_autoencoder()
    launch(train_replica, [model], replicas, work, minutes, learning_rate, start)
    saved = torch.load(work / "autoencoder" / "weights.pt", weights_only=True)
    point_at([model], saved["average"])
    model.eval()
    world = World(work / "drawings.npz")
    scenes = stream(world, [8, 8])
    with torch.no_grad():
        latents = model.encode(to_pixels([next(scenes)[0] for _ in range(256)])).latent_dist.sample()
    config: Any = {} if start is None else AutoencoderKL.load_config(start, subfolder="vae")
    kept = config.get("latent_channels", 0)
    equalize(model, latents, kept)
    model.save_pretrained(work / "vae")
    parameters = sum(p.numel() for p in model.parameters())
    quality = f"{measure_psnr(model, world):.2f} dB, scaling factor {model.config.scaling_factor}"
    print(f"{parameters / 1e6:.2f} M parameters, {quality}")
