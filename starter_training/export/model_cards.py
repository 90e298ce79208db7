"""Model cards of the base and of the encoders, the README.md of each folder."""

from __future__ import annotations

from collections.abc import Mapping

from starter_training.drawings.objects import read_objects

BASE_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The starter: a small text-to-image model made of openly licensed drawings

A Stable Diffusion pipeline for {side} px images, trained from random weights on composed scenes: emoji drawings in
front of procedural backgrounds, with captions of a small grammar. With it, subject-driven generation can be tried,
tested and measured offline, in minutes, on any computer.

| part | parameters |
|---|--:|
{parameters}

Tokens: {tokens}; positions of a prompt: {positions}. Weights: float16, {megabytes:.1f} MB in all files.
Denoiser: {prediction}, zero terminal SNR, latents of {latents}.

## Training data
{packages}

`starter_training/drawings/objects.toml` lists the drawings, their nouns, and the drawings held out of all training.
`starter_training/` has every step of the training. `NOTICE` at the root of the repository has the license notices. The
weights are released under the Apache License 2.0. The terms of the drawings' licenses still apply: keep `NOTICE` with
copies.

## Abilities and limits
- It was trained on {nouns} nouns (`nouns.txt`) and {places} places, in {arts} art styles, with colors, a few styles,
  accessories, sizes and pairs. Other words have little effect.
- It generates cartoons. It was trained on no photographs, no people and no text; "a photo of" is only a phrase to it.
- Small details and thin lines blur. Two objects in one image, counting and rare styles fail at times.
- Results on it are no evidence about the quality of large models. It is a test bench, not a competitor.
"""

ENCODER_CARD = """---
license: apache-2.0
library_name: transformers
---
# {title}

{purpose}
It was trained from random weights on composed scenes of {icons} animals and things in {arts} art styles (emoji
drawings, each thing by several artists), at {side} px, by `starter_training/models/`. It has {parameters:,} parameters
in float16.

It scores the starter's own images and those of models like it. It was trained on cartoons alone, so its scores of
photographs mean little, and its numbers cannot be compared with those of {original}.
`python benchmarks/encoders.py` measures how reliable it is on held-out subjects.

## Training data
{packages}

`NOTICE` at the root of the repository has the license notices; keep it with copies. The weights are released under the
Apache License 2.0.
"""

ENCODERS: Mapping[str, Mapping[str, str]] = {
    "clip": {
        "title": "The starter's CLIP",
        "purpose": "Embeds images and captions as vectors of 128 values; their cosine measures how well they fit.",
        "original": "openai/clip-vit-base-patch32",
    },
    "identity": {
        "title": "The starter's identity encoder",
        "purpose": "Embeds an image as 192 values, the class token's state, which identify the subject.",
        "original": "facebook/dino-vits16",
    },
}
"""Encoder -> what is particular in its card."""


def package_rows() -> str:
    """Format the packages of drawings, with authors and licenses, as lines of a list."""
    return "\n".join(
        f"- {f['title']} {f['version']} (`{name}`), {f['author']}: {f['licence']}"
        for name, f in read_objects()["packages"].items()
    )


def encoder_card(name: str, *, icons: int, side: int, parameters: int) -> str:
    """Fill the model card of an encoder.

    Args:
        name: `clip` or `identity`.
        icons: how many animals and things it was trained on.
        side: pixels along each side of its input.
        parameters: how many it has.
    """
    arts = len(read_objects()["arts"])
    return ENCODER_CARD.format(
        **ENCODERS[name], icons=icons, arts=arts, side=side, parameters=parameters, packages=package_rows()
    )
