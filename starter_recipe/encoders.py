"""Train the starter's judges: a CLIP of its own and an identity encoder, neither of which shares a weight with the base.

The CLIP (Radford et al. 2021, arXiv 2103.00020) pairs scenes with their captions. The identity encoder is a vision transformer in
DINO's format. It learns from two views of a subject, by contrast with every other subject of the batch, half of them look-alikes
(NT-Xent, Chen et al. 2020, arXiv 2002.05709), or by self-distillation (Caron et al. 2021, arXiv 2104.14294): README.md says which won.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig, ViTConfig, ViTModel

from starter_recipe.drawings import read_catalogue
from starter_recipe.places import Rng
from starter_recipe.replicas import Clock, Replica, Shared, launch, learning_scale, point_at, with_defaults
from starter_recipe.tokenizer import POSITIONS
from starter_recipe.views import PLAIN, Family, choose_subjects, draw_views, families_of, finish
from starter_recipe.world import World

# B pictures, D width, H heads of the distillation
SIDE, PATCH, WIDTH, LAYERS = 64, 8, 192, 6
PAIRS, SHARING = 160, 8
"""Scenes of one contrastive step, and how many of them share a backdrop: in front of the same one, only what it shows tells two apart."""
SUBJECTS = 64
"""Subjects of one step of the identity encoder, two views each."""
TEMPERATURE = 0.1
PROTOTYPES = 1024
MEAN_AND_DEVIATION = 0.5
"""Pictures are given to the encoders in -1..1."""
VALIDATION = 12
"""Every 12th family of drawings teaches the identity encoder nothing; on those its two ways of learning are compared."""


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 5.4 M parameters: 64 pixels in patches of 8, 6 layers of 192; captions, 4 layers of 192; both to 128."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=3,
        max_position_embeddings=POSITIONS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
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
    """A vision transformer of 2.7 M parameters: 64 pixels in patches of 8, 6 layers of 192."""
    config = ViTConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=3, image_size=SIDE,
        patch_size=PATCH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    encoder = ViTModel(config, add_pooling_layer=False)
    encoder.set_attn_implementation("eager")  # as above
    return encoder


def wide_world(work: Path, seed: int = 0) -> World:
    """A world of every drawing collected but held-out ones, named by their labels: many more than the base is shown."""
    catalogue = read_catalogue(work / "npm" / "node_modules")
    return World(
        work / "drawings.npz",
        SIDE,
        seed,
        nouns={label: {"bodies": [icon]} for icon, label in catalogue.items()},
        named=0.0,
    )


def to_inputs(pictures: np.ndarray) -> Tensor:
    """B x H x W x 3 uint8 as the encoders' B x 3 x H x W in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def caption_loss(clip: CLIPModel, inputs_BCHW: Tensor, ids_BN: Tensor) -> Tensor:
    """Symmetric cross-entropy over all pairs of the batch (Radford et al. 2021, figure 3)."""
    with torch.autocast(inputs_BCHW.device.type, torch.bfloat16):
        answer = clip(input_ids=ids_BN, pixel_values=inputs_BCHW)
    logits = answer.logits_per_text.float()
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def embed(encoder: ViTModel, inputs_BCHW: Tensor) -> Tensor:
    """B x D, the state of the class token, as DINO is read."""
    with torch.autocast(inputs_BCHW.device.type, torch.bfloat16):
        return encoder(inputs_BCHW).last_hidden_state[:, 0].float()


def contrast_loss(embeddings_BD: Tensor) -> Tensor:
    """NT-Xent: views 2i and 2i + 1 show one subject; every other view of the batch is someone else."""
    unit = F.normalize(embeddings_BD, dim=-1)
    logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    other_view = torch.arange(len(unit), device=unit.device) ^ 1
    return F.cross_entropy(logits, other_view)


def assign(head: nn.Module, prototypes: Tensor, embeddings_BD: Tensor) -> Tensor:
    """B x prototypes: cosine of each embedding's projection with every prototype."""
    return F.normalize(head(embeddings_BD), dim=-1) @ F.normalize(prototypes, dim=-1).T


class Distillation(nn.Module):
    """DINO's objective: a student's view predicts what a slowly moving teacher says of the other view, over 1,024 prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 128))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 128))
        self.teacher: tuple[ViTModel, nn.Module, Tensor] | None = None
        self.centre = torch.zeros(PROTOTYPES)

    def loss(self, student: ViTModel, inputs_BCHW: Tensor, warmth: float) -> Tensor:
        """Cross-entropy with the teacher's sharpened, centred answer for the other view; the teacher's temperature rises with `warmth`."""
        if (
            self.teacher is None
        ):  # at the first step, also of a resumed training; a tuple, so that no optimizer takes it for its own
            self.teacher = (copy.deepcopy(student), copy.deepcopy(self.head), self.prototypes.detach().clone())
        twin, head, prototypes = self.teacher
        with torch.no_grad():
            said = assign(head, prototypes, embed(twin, inputs_BCHW))
            target = (
                ((said - self.centre) / (0.04 + 0.02 * warmth))
                .softmax(-1)
                .view(-1, 2, PROTOTYPES)
                .flip(1)
                .flatten(0, 1)
            )
            self.centre.lerp_(said.mean(0), 0.1)
        answer = assign(self.head, self.prototypes, embed(student, inputs_BCHW))
        return -(target * (answer / 0.1).log_softmax(-1)).sum(-1).mean()

    @torch.no_grad()
    def follow(self, student: ViTModel, momentum: float) -> None:
        """Move the teacher a little towards the student."""
        assert self.teacher is not None, "a step comes first"
        twin, head, prototypes = self.teacher
        pairs = [
            *zip(twin.parameters(), student.parameters(), strict=True),
            *zip(head.parameters(), self.head.parameters(), strict=True),
        ]
        for mine, theirs in [*pairs, (prototypes, self.prototypes)]:
            mine.lerp_(theirs, 1 - momentum)


def nearest_right(embeddings_BD: Tensor) -> float:
    """Share of views whose nearest other view shows the same subject; views 2i and 2i + 1 belong together."""
    unit = F.normalize(embeddings_BD, dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return (nearest == torch.arange(len(unit)) ^ 1).float().mean().item()


def split_families(world: World) -> tuple[list[Family], list[Family]]:
    """The families that teach the identity encoder, and those on which its ways of learning are compared."""
    families = families_of(world)
    return [f for i, f in enumerate(families) if i % VALIDATION], families[::VALIDATION]


def run_steps(  # noqa: PLR0917 - its two callers read better in order
    replica: Replica, folder: Path, minutes: float, step_loss: Callable[[Rng, float], Tensor], check: Callable[[], str],
    after: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """The loop of both trainings: resume, spend the minutes, report and save on the way and at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = replica.resume(folder)
    clock, step, begun = Clock(minutes, progress["seconds"]), int(progress["step"]), int(progress["begun"])
    rng = np.random.default_rng([4, step])
    while clock.fraction < 1:
        loss = step_loss(rng, clock.fraction)
        loss.backward()
        replica.step(
            learning_scale(clock.fraction, step - begun, warmup=100), decay=min(0.998, (1 + step) / (10 + step))
        )
        after()
        step += 1
        if step % 250 == 0:
            replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})
            print(f"step {step} {clock.seconds / 60:.1f} min loss {loss.item():.4f} {check()}", flush=True)
    replica.save(folder, {"seconds": clock.seconds, "step": float(step), "begun": float(begun)})
    print(f"step {step} {clock.seconds / 60:.1f} min {check()}", flush=True)


def train_clip_replica(rank: int, shared: Shared, work: Path, minutes: float, learning_rate: float) -> None:
    """The CLIP's training: half of the scenes are the base's world, half are made of every other drawing."""
    device = shared.parameters.device
    with_defaults(rank, device)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    clip = make_clip(tokenizer).to(device)
    replica = Replica([clip], shared, rank, learning_rate=learning_rate, betas=(0.9, 0.98))
    worlds = (World(work / "drawings.npz", named=0.1), wide_world(work))

    def batch(rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        scenes: list[tuple[Image.Image, str]] = []
        for group in range(count // SHARING):
            world = worlds[group % 2]
            behind = world.backdrop(rng, 1.0)
            scenes += [world.compose(rng, behind=behind) for _ in range(SHARING)]
        ids = tokenizer(
            [c for _, c in scenes], padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt"
        ).input_ids
        return to_inputs(np.stack([np.asarray(finish(picture, rng, PLAIN)) for picture, _ in scenes])).to(
            device
        ), ids.to(device)

    held = batch(np.random.default_rng([3, 4]), 256)

    def check() -> str:
        with torch.no_grad():
            return f"validation loss {caption_loss(clip, *held).item():.4f}"

    run_steps(
        replica, work / "encoders" / "clip", minutes, lambda rng, _: caption_loss(clip, *batch(rng, PAIRS)), check
    )


def train_identity_replica(  # noqa: PLR0917 - called by `launch`
    rank: int, shared: Shared, work: Path, minutes: float, learning_rate: float, objective: str
) -> None:
    """The identity encoder's training, by `contrast` or by `distillation`."""
    device = shared.parameters.device
    with_defaults(rank, device)
    encoder = make_identity_encoder().to(device)
    distillation = Distillation().to(device) if objective == "distillation" else None
    modules: list[nn.Module] = [encoder] if distillation is None else [encoder, distillation]
    replica = Replica(modules, shared, rank, learning_rate=learning_rate, betas=(0.9, 0.98))
    world = wide_world(work)
    families, unseen = split_families(world)
    fresh = np.random.default_rng([3, 5])
    held = to_inputs(draw_views(world, choose_subjects(unseen, fresh, 64), fresh, 2, PLAIN)).to(device)

    def step_loss(rng: Rng, fraction: float) -> Tensor:
        inputs = to_inputs(draw_views(world, choose_subjects(families, rng, SUBJECTS), rng, 2)).to(device)
        if distillation is not None:
            return distillation.loss(encoder, inputs, fraction)
        return contrast_loss(embed(encoder, inputs))

    def check() -> str:
        with torch.no_grad():
            return f"nearest view right among {len(held)} {nearest_right(embed(encoder, held)):.3f}"

    def after() -> None:
        if distillation is not None:
            distillation.follow(encoder, 0.99)

    run_steps(replica, work / "encoders" / f"identity-{objective}", minutes, step_loss, check, after)


def train_clip(work: Path, minutes: float, learning_rate: float) -> None:
    """Train the CLIP for a budget of minutes, resuming what is there."""
    torch.manual_seed(0)
    launch(
        train_clip_replica,
        [make_clip(CLIPTokenizer.from_pretrained(work / "tokenizer"))],
        1,
        work,
        minutes,
        learning_rate,
    )


def train_identity_encoder(work: Path, minutes: float, learning_rate: float, objective: str) -> None:
    """Train the identity encoder for a budget of minutes, resuming what is there."""
    torch.manual_seed(0)
    encoder = make_identity_encoder()
    modules: list[nn.Module] = [encoder] if objective == "contrast" else [encoder, Distillation()]
    launch(train_identity_replica, modules, 1, work, minutes, learning_rate, objective)


def read_average(module: nn.Module, folder: Path) -> Any:
    """Give a module the averaged weights that a training saved; what else was trained with it comes after and is left out."""
    saved = torch.load(folder / "weights.pt", weights_only=True)["average"]
    point_at([module], saved)
    return module.eval()
