"""Train the starter's CLIP and identity encoder on composed scenes and on views of subjects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from starter_training.data_parallel import Clock, Replica, SharedBuffers, launch, learning_rate_scale, pin_to_core
from starter_training.models.distillation import Distillation
from starter_training.models.encoders import (
    SIDE,
    caption_loss,
    contrast_loss,
    embed,
    make_clip,
    make_identity_encoder,
    nearest_right,
    split_families,
    to_inputs,
    wide_world,
)
from starter_training.models.tokenizer import POSITIONS, copy_weights
from starter_training.scenes.augmentations import PLAIN, choose_subjects, finish, generate_views
from starter_training.scenes.canvas import Rng
from starter_training.scenes.caption_words import ARTICLE
from starter_training.scenes.scene_grammar import compose
from starter_training.scenes.world import World, paste_centered

PAIRS, SHARING = 160, 16
"""Scenes of one contrastive step, and how many of them share a backdrop.

In front of the same backdrop, only what the scenes show distinguishes their captions.
"""
SILENT = 0.5
"""Share of backdrops that captions say nothing of: they name the figure alone."""
SUBJECTS = 64
"""Subjects of one step of the identity encoder, two views each."""


def run_steps(
    replica: Replica,
    folder: Path,
    minutes: float,
    *,
    step_loss: Callable[[Rng, float], Tensor],
    validate: Callable[[], str],
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run the training loop: resume, train for the budget, report and save every 250 steps.

    Args:
        replica: the replica whose parameters are trained.
        folder: where the checkpoint is kept.
        minutes: the budget.
        step_loss: returns the loss of a step from a random generator and the share of time spent.
        validate: returns a validation result to print.
        after: is called after each step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress = replica.resume(folder)
    clock, step, begun = Clock(minutes, progress["seconds"]), int(progress["step"]), int(progress["begun"])
    rng = np.random.default_rng([4, replica.rank, step])
    while (fraction := replica.spent(clock)) < 1:
        loss = step_loss(rng, fraction)
        loss.backward()
        scale = learning_rate_scale(fraction, step - begun, warmup=100)
        replica.step(scale, decay=min(0.998, (1 + step) / (10 + step)))
        after()
        step += 1
        if step % 250 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})
            if replica.rank == 0:
                print(f"step {step} {clock.seconds / 60:.1f} min loss {loss.item():.4f} {validate()}", flush=True)
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})
    if replica.rank == 0:
        print(f"step {step} {clock.seconds / 60:.1f} min {validate()}", flush=True)


def show_noun(world: World, noun: str) -> Image.Image:
    """Compose one drawing of a noun in front of any background, always the same one."""
    rng = np.random.default_rng([3, 6, world.nouns.index(noun)])
    image, _ = world.backdrop(rng, 1.0)
    paste_centered(image, world.scale(world.any_look(noun, rng), world.usual_size(rng)))
    return image


def train_clip_replica(rank: int, shared: SharedBuffers, work: Path, minutes: float, learning_rate: float) -> None:
    """Train the CLIP: a fifth of the scenes are of all drawings, the others of the base's world."""
    device = shared.parameters.device
    pin_to_core(rank, device)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    clip = make_clip(tokenizer).to(device)
    replica = Replica([clip], shared, rank, learning_rate=learning_rate, betas=(0.9, 0.98))
    worlds = (World(work / "drawings.npz", SIDE, named=0.1), wide_world(work))

    def tokenize(captions: list[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": POSITIONS, "return_tensors": "pt"}
        return tokenizer(captions, **options).input_ids.to(device)

    def batch(rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        scenes: list[tuple[Image.Image, str]] = []
        for group in range(count // SHARING):
            world = worlds[int(group % 4 == 3)]
            image, place = world.backdrop(rng, 1.0)
            behind = (image, "" if rng.random() < SILENT else place)
            scenes += [compose(world, rng, behind=behind) for _ in range(SHARING)]
        inputs = to_inputs(np.stack([np.asarray(finish(image, rng, PLAIN)) for image, _ in scenes]))
        return inputs.to(device), tokenize([caption for _, caption in scenes])

    validation = batch(np.random.default_rng([3, 4]), 256)
    world = worlds[0]
    shown = to_inputs(np.stack([np.asarray(show_noun(world, noun)) for noun in world.nouns])).to(device)
    prompts = tokenize([ARTICLE.sub("an", f"a photo of a {noun}") for noun in world.nouns])

    def validate() -> str:
        with torch.no_grad():
            named = clip(input_ids=prompts, pixel_values=shown).logits_per_image.argmax(1).tolist()
            loss = caption_loss(clip, *validation).item()
        right = [world.nouns[found] in world.kin(noun) for found, noun in zip(named, world.nouns, strict=True)]
        return f"validation loss {loss:.4f}, {np.mean(right):.3f} of {len(right)} nouns named right"

    def step_loss(rng: Rng, _fraction: float) -> Tensor:
        return caption_loss(clip, *batch(rng, PAIRS))

    run_steps(replica, work / "encoders" / "clip", minutes, step_loss=step_loss, validate=validate)


def train_identity_replica(  # noqa: PLR0917 - called by `launch`
    rank: int, shared: SharedBuffers, work: Path, minutes: float, learning_rate: float, objective: str
) -> None:
    """Train the identity encoder, by `contrast` or by `distillation`."""
    device = shared.parameters.device
    pin_to_core(rank, device)
    encoder = make_identity_encoder().to(device)
    distillation = Distillation().to(device) if objective == "distillation" else None
    modules: list[nn.Module] = [encoder] if distillation is None else [encoder, distillation]
    replica = Replica(modules, shared, rank, learning_rate=learning_rate, betas=(0.9, 0.98))
    world = wide_world(work)
    families, unseen = split_families(world)
    rng = np.random.default_rng([3, 5])
    validation = to_inputs(generate_views(world, choose_subjects(unseen, rng, 64), rng, 2, PLAIN)).to(device)

    def step_loss(rng: Rng, fraction: float) -> Tensor:
        inputs = to_inputs(generate_views(world, choose_subjects(families, rng, SUBJECTS), rng, 2)).to(device)
        if distillation is not None:
            return distillation.loss(encoder, inputs, fraction)
        return contrast_loss(embed(encoder, inputs))

    def validate() -> str:
        with torch.no_grad():
            return f"nearest view right among {len(validation)} {nearest_right(embed(encoder, validation)):.3f}"

    def after() -> None:
        if distillation is not None:
            distillation.follow(encoder, 0.99)

    folder = work / "encoders" / f"identity-{objective}"
    run_steps(replica, folder, minutes, step_loss=step_loss, validate=validate, after=after)


def train_clip(work: Path, *, minutes: float, replicas: int, learning_rate: float, start: Path | None = None) -> None:
    """Train the CLIP for a budget of minutes, resuming from a checkpoint.

    Each replica contrasts the scenes of its own batch.

    Args:
        work: the folder of the training.
        minutes: the budget.
        replicas: how many processes train.
        learning_rate: the peak learning rate.
        start: the folder of an earlier CLIP, from whose weights the training starts.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    clip = make_clip(tokenizer)
    if start is not None:
        copy_weights(clip, CLIPModel.from_pretrained(start).float(), tokenizer, CLIPTokenizer.from_pretrained(start))
    launch(train_clip_replica, [clip], replicas, work, minutes, learning_rate)


def train_identity_encoder(work: Path, minutes: float, learning_rate: float, objective: str) -> None:
    """Train the identity encoder for a budget of minutes, resuming from a checkpoint.

    `objective` is `contrast` or `distillation`.
    """
    torch.manual_seed(0)
    encoder = make_identity_encoder()
    modules: list[nn.Module] = [encoder] if objective == "contrast" else [encoder, Distillation()]
    launch(train_identity_replica, modules, 1, work, minutes, learning_rate, objective)
