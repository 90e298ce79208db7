"""Write the trained encoders as package data: transformers' own folders in half precision, read back and compared before they count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from mascot.errors import UserError
from starter_recipe.drawings import read_catalogue
from starter_recipe.encoders import MEAN_AND_DEVIATION, SIDE, make_clip, make_identity_encoder, read_average, wide_world
from starter_recipe.export import megabytes_of, open_to_all, package_rows, strip_origins
from starter_recipe.folders import whole_folder
from starter_recipe.views import choose_subjects, draw_views, families_of

LIMIT_MB = 25.0
"""Most that both encoders may weigh, in millions of bytes."""
TOLERANCE = 5e-3
"""Largest difference of a value of a unit-length embedding between the written encoder and the one in memory: half precision's."""
PREPROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": SIDE}, "resample": 3, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [MEAN_AND_DEVIATION] * 3,
    "image_std": [MEAN_AND_DEVIATION] * 3, "do_convert_rgb": True,
}  # fmt: skip
CARD = """---
license: apache-2.0
library_name: transformers
---
# {title}

{what} Trained from random weights on composed scenes of {icons} animals and things in {arts} arts (emoji drawings, each thing by
several artists), at {side} px, by `starter_recipe/encoders.py`. {parameters:,} parameters, float16.

It judges the starter's own pictures and those of models like it. It has seen cartoons alone: its scores of photographs mean little,
and none of its numbers can be compared with those of {original}. How far it can be trusted, on subjects that it never saw:
`python benchmarks/encoders.py`.

## What it was made from
{packages}

The licences' notices: `NOTICE` at the root of the repository; keep it with copies. The weights are released under the Apache License 2.0.
"""


def probe(work: Path) -> Tensor:
    """Eight views to compare encoders on."""
    world, rng = wide_world(work), np.random.default_rng([9, 1])
    pictures = draw_views(world, choose_subjects(families_of(world), rng, 4), rng, 2)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def answer(model: Any, pixels_BCHW: Tensor) -> Tensor:
    """B x D: what scores are made of."""
    with torch.no_grad():
        if isinstance(model, CLIPModel):
            return model.visual_projection(model.vision_model(pixel_values=pixels_BCHW).pooler_output)
        return model(pixels_BCHW).last_hidden_state[:, 0]


def write_encoder(
    model: CLIPModel | ViTModel, out: Path, card: str, pixels_BCHW: Tensor, tokenizer: CLIPTokenizer | None = None
) -> float:
    """Write one encoder; `out` changes only when all of it is written and reads back as the same. Returns millions of bytes."""
    expected = answer(model.float().eval(), pixels_BCHW)
    with whole_folder(out) as folder:
        model.half().save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
        strip_origins(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        read: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32) if isinstance(model, CLIPModel) else ViTModel.from_pretrained(
            folder, dtype=torch.float32, add_pooling_layer=False
        )  # fmt: skip
        normal = torch.nn.functional.normalize
        difference = (normal(answer(read.eval(), pixels_BCHW), dim=-1) - normal(expected, dim=-1)).abs().max().item()
        if not difference <= TOLERANCE:
            raise RuntimeError(f"The encoder read back from {folder} answers differently: by up to {difference:.4f}.")
        open_to_all(folder)
        return megabytes_of(folder)


def export_encoders(work: Path, starter: Path, objective: str) -> str:
    """Write `starter/clip` and `starter/identity` from what has been trained in `work`. Returns a line about both.

    Raises UserError where a step before this one has not run or both together are too heavy.
    """
    trained = {"clip": work / "encoders" / "clip", "identity": work / "encoders" / f"identity-{objective}"}
    for step, folder in trained.items():
        if not (folder / "weights.pt").is_file():
            raise UserError(
                f"{folder / 'weights.pt'} is missing: run `python -m starter_recipe {step} --work {work}` first."
            )
    tokenizer, pixels = CLIPTokenizer.from_pretrained(work / "tokenizer"), probe(work)
    clip, identity = (
        read_average(make_clip(tokenizer), trained["clip"]),
        read_average(make_identity_encoder(), trained["identity"]),
    )
    weight = 2 * sum(p.numel() for model in (clip, identity) for p in model.parameters()) / 1e6
    if weight > LIMIT_MB:
        raise UserError(
            f"The encoders would weigh {weight:.1f} MB; make them narrower: {LIMIT_MB:.0f} MB is the limit."
        )
    facts = {
        "icons": len(read_catalogue(work / "npm" / "node_modules")), "arts": 5, "side": SIDE, "packages": package_rows(),
    }  # fmt: skip
    cards = {
        "clip": CARD.format(
            title="The starter's CLIP", what="Pictures and captions as vectors of 128 values whose cosine says how well they fit.",
            parameters=sum(p.numel() for p in clip.parameters()), original="openai/clip-vit-base-patch32", **facts,
        ),
        "identity": CARD.format(
            title="The starter's identity encoder",
            what="A picture as 192 values (the class token's state) that say which subject it shows.",
            parameters=sum(p.numel() for p in identity.parameters()), original="facebook/dino-vits16", **facts,
        ),
    }  # fmt: skip
    sizes = (write_encoder(clip, starter / "clip", cards["clip"], pixels, tokenizer),
             write_encoder(identity, starter / "identity", cards["identity"], pixels))  # fmt: skip
    return f"CLIP {sizes[0]:.1f} MB, identity encoder {sizes[1]:.1f} MB in {starter}"
