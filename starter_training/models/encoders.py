"""The starter's CLIP and identity encoder: architectures, inputs, losses and reading of weights.

Neither shares a weight with the base. The CLIP (Radford et al. 2021, arXiv 2103.00020) pairs scenes
with their captions. The identity encoder is a vision transformer in DINO's format. It is trained
on two views of each subject by contrast with every other subject of the batch, half of them
look-alikes (NT-Xent, Chen et al. 2020, arXiv 2002.05709), or by self-distillation. README.md says
which of the two won.

Shape suffixes: B images, C channel, H height, W width, N positions of a prompt, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig, ViTConfig, ViTModel

from starter_training.data_parallel import point_at
from starter_training.drawings.objects import read_catalogue
from starter_training.models.tokenizer import POSITIONS
from starter_training.scenes.augmentations import DrawingFamily, families_of
from starter_training.scenes.world import World

SIDE, PATCH, WIDTH, LAYERS = 64, 8, 192, 6
TEMPERATURE = 0.1
"""Temperature of the NT-Xent loss."""
MEAN_AND_DEVIATION = 0.5
"""Mean and standard deviation of the encoders' preprocessing; their inputs are in -1..1."""
VALIDATION = 12
"""Every 12th family of drawings is held out to compare the identity encoder's two objectives."""

Network = TypeVar("Network", bound=nn.Module)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make a CLIP of 5.4 M parameters with random weights.

    Images: 64 pixels in patches of 8, 6 layers of width 192. Captions: 4 layers of width 192. Both
    are projected to 128 values.
    """
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=3,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    clip = CLIPModel(config)
    clip.set_attn_implementation("eager")  # SDPA's backward is slow on CPUs for few tokens
    return clip


def make_identity_encoder() -> ViTModel:
    """Make a vision transformer of 2.7 M parameters with random weights.

    It reads 64 pixels in patches of 8 and has 6 layers of width 192.
    """
    config = ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder = ViTModel(config, add_pooling_layer=False)
    encoder.set_attn_implementation("eager")  # as above
    return encoder


def wide_world(work: Path, side: int = SIDE, seed: int = 0) -> World:
    """Make a world of every collected drawing except held-out ones, named by their labels.

    It has many more drawings than the base's world.
    """
    catalogue = read_catalogue(work / "npm" / "node_modules")
    nouns = {label: {"bodies": [icon]} for icon, label in catalogue.items()}
    return World(work / "drawings.npz", side, seed, nouns=nouns, named=0.0)


def to_inputs(images: NDArray[np.uint8]) -> Tensor:
    """Turn images (B x H x W x 3) into the encoders' inputs. Shape B x 3 x H x W, range -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def caption_loss(clip: CLIPModel, inputs_BCHW: Tensor, ids_BN: Tensor) -> Tensor:
    """Return the symmetric cross-entropy over all pairs of the batch.

    Source: Radford et al. 2021, figure 3.
    """
    with torch.autocast(inputs_BCHW.device.type, torch.bfloat16):
        output = clip(input_ids=ids_BN, pixel_values=inputs_BCHW)
    logits = output.logits_per_text.float()
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def embed(encoder: ViTModel, inputs_BCHW: Tensor) -> Tensor:
    """Embed images by the state of the class token, as DINO does. Shape B x D."""
    with torch.autocast(inputs_BCHW.device.type, torch.bfloat16):
        return encoder(inputs_BCHW).last_hidden_state[:, 0].float()


def contrast_loss(embeddings_BD: Tensor) -> Tensor:
    """Return the NT-Xent loss (Chen et al. 2020, equation 1).

    Views 2i and 2i + 1 show one subject; every other view of the batch shows another.
    """
    unit = F.normalize(embeddings_BD, dim=-1)
    logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    other_view = torch.arange(len(unit), device=unit.device) ^ 1
    return F.cross_entropy(logits, other_view)


def nearest_right(embeddings_BD: Tensor) -> float:
    """Return the share of views whose nearest other view shows the same subject.

    Views 2i and 2i + 1 belong together.
    """
    unit = F.normalize(embeddings_BD, dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return (nearest == torch.arange(len(unit)) ^ 1).float().mean().item()


def split_families(world: World) -> tuple[list[DrawingFamily], list[DrawingFamily]]:
    """Split the families into those for training and those for validation."""
    families = families_of(world)
    return [f for i, f in enumerate(families) if i % VALIDATION], families[::VALIDATION]


def read_average(network: Network, folder: Path) -> Network:
    """Load the averaged weights that a training saved and return the network in evaluation mode.

    Parameters that were trained together with the network come after its own and are left out.
    """
    saved = torch.load(folder / "weights.pt", weights_only=True)["average"]
    point_at([network], saved)
    return network.eval()
