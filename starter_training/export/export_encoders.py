"""Write the trained encoders as package data, transformers' own folders in half precision.

Shape suffixes: B images, C channel, H height, W width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from mascot.errors import UserError
from starter_training.atomic_folder import atomic_folder
from starter_training.drawings.objects import read_catalogue
from starter_training.export.model_cards import encoder_card
from starter_training.export.package_folder import megabytes_of, open_to_all, strip_origins
from starter_training.models.encoders import (
    MEAN_AND_DEVIATION,
    SIDE,
    make_clip,
    make_identity_encoder,
    read_average,
    to_inputs,
    wide_world,
)
from starter_training.scenes.augmentations import choose_subjects, families_of, generate_views

LIMIT_MB = 25.0
"""Largest size of both encoders together, in millions of bytes."""
TOLERANCE = 5e-3
"""Largest difference of a value of a unit-length embedding that half precision may cause."""
PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN_AND_DEVIATION] * 3,
    "image_std": [MEAN_AND_DEVIATION] * 3,
    "do_convert_rgb": True,
}


def probe_images(work: Path) -> Tensor:
    """Compose eight views on which encoders are compared. Shape B x 3 x H x W, range -1..1."""
    world, rng = wide_world(work), np.random.default_rng([9, 1])
    return to_inputs(generate_views(world, choose_subjects(families_of(world), rng, 4), rng, 2))


def embed(model: CLIPModel | ViTModel, pixels_BCHW: Tensor) -> Tensor:
    """Embed images as scores do, by CLIP's projection or the class token's state. Shape B x D."""
    with torch.no_grad():
        if isinstance(model, CLIPModel):
            return model.visual_projection(model.vision_model(pixel_values=pixels_BCHW).pooler_output)
        return model(pixels_BCHW).last_hidden_state[:, 0]


def read_encoder(folder: Path, like: CLIPModel | ViTModel) -> CLIPModel | ViTModel:
    """Read a written encoder of the same class as `like`, in float32."""
    if isinstance(like, CLIPModel):
        return CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)


def write_encoder(
    model: CLIPModel | ViTModel, out: Path, card: str, pixels_BCHW: Tensor, tokenizer: CLIPTokenizer | None = None
) -> float:
    """Write one encoder; `out` changes only when everything is written and reads back the same.

    Args:
        model: the trained encoder; its weights become half precision.
        out: the folder to write.
        card: text of the model card.
        pixels_BCHW: images on which the written encoder is compared with the one in memory.
        tokenizer: is written too, if given.

    Returns:
        Millions of bytes.

    Raises:
        RuntimeError: the written encoder gives other embeddings.
    """
    expected = embed(model.float().eval(), pixels_BCHW)
    with atomic_folder(out) as folder:
        model.half().save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
        strip_origins(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        found = embed(read_encoder(folder, model).eval(), pixels_BCHW)
        normalize = torch.nn.functional.normalize
        difference = (normalize(found, dim=-1) - normalize(expected, dim=-1)).abs().max().item()
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"The encoder read back from {folder} gives other embeddings: they differ by up to {difference:.4f}."
            )
        open_to_all(folder)
        return megabytes_of(folder)


def export_encoders(work: Path, starter: Path, objective: str) -> str:
    """Write `starter/clip` and `starter/identity` from the weights trained in `work`.

    An encoder that was not trained there stays as it is.

    Args:
        work: the folder of the training.
        starter: the folder of the package data.
        objective: the objective by which the identity encoder was trained.

    Returns:
        A line with the size of each that was written.

    Raises:
        UserError: neither was trained, or both together are too large.
    """
    folders = {"clip": work / "encoders" / "clip", "identity": work / "encoders" / f"identity-{objective}"}
    trained = {name: folder for name, folder in folders.items() if (folder / "weights.pt").is_file()}
    if not trained:
        raise UserError(
            f"no encoder has been trained in {work}: run `python -m starter_training clip --work {work}` or "
            f"`python -m starter_training identity --work {work}` first."
        )
    tokenizer, pixels = CLIPTokenizer.from_pretrained(work / "tokenizer"), probe_images(work)
    models = {name: read_average(make_encoder(name, tokenizer), folder) for name, folder in trained.items()}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    others = sum(megabytes_of(starter / name) for name in folders.keys() - trained.keys())
    megabytes = 2 * sum(counts.values()) / 1e6 + others
    if megabytes > LIMIT_MB:
        raise UserError(
            f"The encoders would have {megabytes:.1f} MB and {LIMIT_MB:.0f} MB is the limit: make them narrower."
        )
    icons = len(read_catalogue(work / "npm" / "node_modules"))
    written: list[str] = []
    for name, model in models.items():
        card = encoder_card(name, icons=icons, side=SIDE, parameters=counts[name])
        size = write_encoder(model, starter / name, card, pixels, tokenizer if name == "clip" else None)
        written.append(f"{name} {size:.1f} MB")
    return f"{', '.join(written)} in {starter}"


def make_encoder(name: str, tokenizer: CLIPTokenizer) -> CLIPModel | ViTModel:
    """Make the encoder `clip` or `identity` with random weights."""
    return make_clip(tokenizer) if name == "clip" else make_identity_encoder()
