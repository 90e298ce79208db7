"""Train the starter's text encoder and UNet together, on latents of composed scenes.

Shape suffixes: B batch, C channel, H height, W width, N positions of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from starter_training.data_parallel import (
    Clock,
    Replica,
    SharedBuffers,
    launch,
    learning_rate_scale,
    pin_to_core,
    point_at,
)
from starter_training.models.autoencoder import LATENT_CHANNELS, to_pixels
from starter_training.models.tokenizer import CAPTIONS, POSITIONS, captions, copy_weights
from starter_training.scenes.scene_grammar import compose
from starter_training.scenes.world import World

BATCH = 64
"""Latents in a step, over all replicas."""
REPLAY = 6
"""Average number of times that a scene is trained on.

Composing and encoding its scenes would cost a third of a step.
"""
CAPTION_DROPOUT = 0.1
CELLS = 16
"""Cells along each side of the latents."""


def make_scheduler() -> DDIMScheduler:
    """Make a v-prediction schedule with zero terminal SNR (Lin et al. 2023, arXiv 2305.08891).

    Plain backgrounds need a true black and white.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def make_base(tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Make a small Stable Diffusion with random weights: a UNet and a text encoder.

    They have 13.8 M and 3.4 M parameters.
    """
    unet = UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 224),
        layers_per_block=1,
        norm_num_groups=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            projection_dim=256,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # SDPA's backward is slow on CPUs for 16 to 256 tokens.
    # Plain matmul and softmax took 30 % off a step.
    unet.set_attn_processor(AttnProcessor())
    return unet, text


class LatentPool:
    """A rolling store of encoded scenes and their token ids.

    Args:
        world: what scenes are composed from.
        vae: encodes the scenes.
        tokenizer: tokenizes the captions.
        device: where latents and token ids are kept.
        seed: decides the scenes and the batches.
        size: how many scenes are kept.
    """

    def __init__(
        self,
        world: World,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        device: torch.device,
        seed: list[int],
        *,
        size: int,
    ) -> None:
        self.world, self.vae, self.tokenizer, self.device = world, vae, tokenizer, device
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.latents_BCHW = torch.zeros(size, LATENT_CHANNELS, CELLS, CELLS, device=device)
        self.ids_BN = torch.zeros(size, POSITIONS, dtype=torch.long, device=device)
        self.next = 0
        self.filled = 0

    def tokenize(self, captions: list[str]) -> Tensor:
        """Tokenize captions, padded to the full length. Shape B x N."""
        ids = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt"
        ).input_ids
        return ids.to(self.device)

    def add(self, count: int, difficulty: float) -> None:
        """Compose, encode and store new scenes over the oldest ones."""
        scenes = [compose(self.world, self.rng, difficulty) for _ in range(count)]
        pixels = to_pixels([image for image, _ in scenes]).to(self.device)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            latents = self.vae.encode(pixels).latent_dist.sample().float() * self.vae.config.scaling_factor
        captions = ["" if self.rng.random() < CAPTION_DROPOUT else caption for _, caption in scenes]
        rows = torch.arange(self.next, self.next + count) % self.size
        self.latents_BCHW[rows] = latents
        self.ids_BN[rows] = self.tokenize(captions)
        self.next = (self.next + count) % self.size
        self.filled = min(self.size, self.filled + count)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw a random batch of latents (B x C x H x W) and token ids (B x N)."""
        chosen = torch.from_numpy(self.rng.integers(0, self.filled, count))
        return self.latents_BCHW[chosen], self.ids_BN[chosen]


def validation_batch(pool: LatentPool, count: int, difficulty: float = 1.0) -> tuple[Tensor, Tensor]:
    """Compose `count` scenes that are never trained on, as latents and token ids."""
    rng = np.random.default_rng([3, 3])
    scenes = [compose(pool.world, rng, difficulty) for _ in range(count)]
    pixels = to_pixels([image for image, _ in scenes]).to(pool.device)
    with torch.no_grad():
        latents_BCHW = pool.vae.encode(pixels).latent_dist.mean * pool.vae.config.scaling_factor
    return latents_BCHW, pool.tokenize([caption for _, caption in scenes])


def difficulty_at(fraction: float) -> float:
    """Return the difficulty of scenes: 0 in the first tenth of the time, 1 from two fifths on."""
    return min(1.0, max(0.0, (fraction - 0.1) / 0.3))


def velocity_loss(
    modules: tuple[torch.nn.Module, torch.nn.Module],
    alphas: Tensor,
    latents_BCHW: Tensor,
    ids_BN: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the MSE of the v-prediction at stratified timesteps.

    Each sample's timestep lies in another of B equal parts of the schedule.

    Args:
        modules: the UNet and the text encoder.
        alphas: cumulative product of the schedule's alphas, 1000 values.
        latents_BCHW: clean latents.
        ids_BN: token ids.
        generator: decides timesteps and noise.
    """
    count, device = len(latents_BCHW), latents_BCHW.device
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps_B = (spread * 1000).long().clamp(max=999).to(device)
    eps = torch.randn(latents_BCHW.shape, generator=generator).to(device)
    signal, noise = alphas[timesteps_B].sqrt().view(-1, 1, 1, 1), (1 - alphas[timesteps_B]).sqrt().view(-1, 1, 1, 1)
    with torch.autocast(device.type, torch.bfloat16):
        unet, text = modules
        states = text(ids_BN).last_hidden_state
        prediction = unet(signal * latents_BCHW + noise * eps, timesteps_B, states).sample
    return F.mse_loss(prediction.float(), signal * eps - noise * latents_BCHW)


def train_replica(  # noqa: PLR0917 - called by `launch`
    rank: int, shared: SharedBuffers, work: Path, minutes: float, learning_rate: float, scenes: int
) -> None:
    """Run one replica of the training; `scenes` is how many it keeps encoded.

    A step replaces some of them and trains on a random few.
    """
    device = shared.parameters.device
    pin_to_core(rank, device)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
    unet, text = (module.to(device) for module in make_base(tokenizer))
    alphas = make_scheduler().alphas_cumprod.to(device)
    replica = Replica([unet, text], shared, rank, learning_rate=learning_rate, betas=(0.9, 0.98))
    folder = work / "base"
    folder.mkdir(exist_ok=True)
    progress = replica.resume(folder)
    step, begun = int(progress["step"]), int(progress["begun"])
    pool = LatentPool(World(work / "drawings.npz"), vae, tokenizer, device, [2, rank, step], size=scenes)
    batch = BATCH // replica.count
    while pool.filled < scenes:
        pool.add(min(64, scenes - pool.filled), difficulty_at(progress["seconds"] / (60 * minutes)))
    validation = validation_batch(pool, min(128, scenes))
    generator = torch.Generator().manual_seed(1000 * step + rank)
    clock = Clock(minutes, progress["seconds"])
    while (fraction := replica.spent(clock)) < 1:
        if step % REPLAY == 0:
            pool.add(batch, difficulty_at(fraction))
        loss = velocity_loss((unet, text), alphas, *pool.draw(batch), generator)
        loss.backward()
        replica.step(learning_rate_scale(fraction, step - begun), decay=min(0.9995, (1 + step) / (10 + step)))
        step += 1
        if step % 250 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})
            if rank == 0:
                with torch.no_grad():
                    measured = velocity_loss((unet, text), alphas, *validation, torch.Generator().manual_seed(0))
                losses = f"loss {loss.item():.4f} validation {measured.item():.4f}"
                print(f"step {step} {clock.seconds / 60:.1f} min {losses}", flush=True)
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})


def train_base(
    work: Path, *, minutes: float, replicas: int, learning_rate: float, scenes: int, start: Path | None = None
) -> None:
    """Train for a budget of minutes, resuming from a checkpoint.

    Args:
        work: the folder of the training.
        minutes: the budget.
        replicas: how many processes train.
        learning_rate: the peak learning rate.
        scenes: how many encoded scenes each replica keeps.
        start: an earlier base, from whose weights the training starts.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text = make_base(tokenizer)
    if start is not None:
        continue_unet(unet, UNet2DConditionModel.from_pretrained(start, subfolder="unet").float())
        continue_text_encoder(text, tokenizer, start)
    launch(train_replica, [unet, text], replicas, work, minutes, learning_rate, scenes)


def continue_unet(unet: UNet2DConditionModel, earlier: UNet2DConditionModel) -> None:
    """Copy an earlier UNet's weights.

    Latent channels that it did not have have no effect at first, and are predicted as zero.
    """
    weights = earlier.state_dict()
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            shared = tuple(slice(0, length) for length in weights[name].shape)
            if parameter.shape != weights[name].shape:
                parameter.zero_()
            parameter[shared] = weights[name]


def continue_text_encoder(text: CLIPTextModel, tokenizer: CLIPTokenizer, start: Path) -> None:
    """Copy the weights of an earlier base's text encoder; its tokenizer may be another one."""
    earlier = CLIPTextModel.from_pretrained(start, subfolder="text_encoder").float()
    former = CLIPTokenizer.from_pretrained(start, subfolder="tokenizer")
    copy_weights(text, earlier, tokenizer, former)


def revive_unseen_tokens(text: CLIPTextModel, tokenizer: CLIPTokenizer, captions: Iterable[str]) -> int:
    """Rescale embedding rows that no caption trained to the median norm of trained rows.

    A rare token then has a clear effect on the text encoder.

    Returns:
        The number of rescaled rows.
    """
    seen = {i for caption in captions for i in tokenizer(caption).input_ids} | set(tokenizer("").input_ids)
    rows = text.get_input_embeddings().weight.data
    unseen = torch.tensor(sorted(set(range(len(rows))) - seen))
    trained_norm = rows[torch.tensor(sorted(seen))].norm(dim=1).median()
    rows[unseen] *= trained_norm / rows[unseen].norm(dim=1, keepdim=True)
    return len(unseen)


def read_pipeline(work: Path) -> StableDiffusionPipeline:
    """Assemble a pipeline from the averaged weights trained so far."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    unet, text = make_base(tokenizer)
    saved = torch.load(work / "base" / "weights.pt", weights_only=True)
    point_at([unet, text], saved["average"])
    revive_unseen_tokens(text, tokenizer, islice(captions(work), CAPTIONS))
    vae = AutoencoderKL.from_pretrained(work / "vae")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
