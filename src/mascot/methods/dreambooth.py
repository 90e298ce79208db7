"""DreamBooth (Ruiz et al. 2023, arXiv 2208.12242): trains every weight of the denoiser.

On request, it trains the weights of the text encoders too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import torch
from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.lora_keys import name_in_file, write_metadata
from mascot.adapters.sides import DENOISER, TEXT_ENCODERS, Sides, sides_of
from mascot.adapters.weight_changes.extraction import extract, representable
from mascot.adapters.weight_changes.weight_sum import SUM, TrainedWeights, Weights, shapes_of_base, sum_of, weights_of
from mascot.errors import UserError, list_some
from mascot.protocols import (
    AttachedMethod,
    Companion,
    ParameterGroup,
    ScheduledPhase,
    Stage,
    Subject,
)

COMPANION: Final = "low_rank"
"""File name, without its ending, of the extracted LoRA."""


class DreamBoothSettings(BaseModel):
    """Recipe settings of DreamBooth: its learning rates, and the rank of the extracted LoRA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["dreambooth"] = Field(default="dreambooth", description="name of the method")
    learning_rate: float = Field(
        default=5e-6, gt=0, le=1, description="learning rate of the denoiser (the paper's for Stable Diffusion)"
    )
    text_learning_rate: float = Field(
        default=0.0, ge=0, le=1, description="learning rate of the text encoders; 0 does not train them"
    )
    text_until: float = Field(
        default=1.0, gt=0, le=1, description="share of the steps after which the text encoders are frozen"
    )
    extract_rank: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="rank of the LoRA that is also extracted from the trained weights; none extracts no LoRA",
    )

    @property
    def trains_token(self) -> bool:
        """The token is a word like others."""
        return False

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The only phase, for all steps."""
        return (ScheduledPhase(phase=self),)

    @property
    def changes(self) -> Sides:
        """The denoiser, and the text encoders unless their rate is 0."""
        return frozenset({DENOISER, TEXT_ENCODERS} if self.text_learning_rate > 0 else {DENOISER})

    @property
    def unused(self) -> Mapping[str, str]:
        """Without text encoders to train, their settings."""
        names = ("text_until",)
        return dict.fromkeys(names, "text_learning_rate") if self.text_learning_rate == 0 else {}

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """List the trained parts: the denoiser, and the text encoders unless their rate is 0.

        Raises:
            UserError: text encoders have a learning rate, and this base model has none that can be
                trained; or the denoiser's weights are quantized to 4 or 8 bits.
        """
        if not all(weight.is_floating_point() for weight in stage.parts[stage.denoiser].parameters()):
            raise UserError(
                "weights in 4 or 8 bits cannot be trained; give --set base_weights=none, or choose --method lora."
            )
        if self.text_learning_rate > 0 and len(stage.parts) == 1:
            raise UserError(
                "this base has no text encoder that can be trained (its T5 never is); "
                "give --set method.text_learning_rate=0."
            )
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_learning_rate > 0)

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Replace the base model's weights by trainable float32 copies; nothing is random."""
        del subject, seed
        assert before is None, "this method has one phase"
        modules = {part: stage.parts[part] for part in self.trains(stage)}
        base = {part: weights_of(module) for part, module in modules.items()}
        trained = {
            part: {name: trainable_copy(weight) for name, weight in weights.items()} for part, weights in base.items()
        }
        for part, module in modules.items():
            set_weights(module, trained[part])
        return DreamBoothTraining(
            groups=tuple(self.group(stage, part, weights) for part, weights in trained.items()),
            modules=modules,
            base=base,
            trained=trained,
            layers={part: extractable_layers(stage, part) for part in modules},
            extract_rank=self.extract_rank,
        )

    def group(self, stage: Stage, part: str, weights: Weights) -> ParameterGroup:
        """Make the parameter group of one part, at its learning rate."""
        if part == stage.denoiser:
            return ParameterGroup(part=part, parameters=tuple(weights.values()), learning_rate=self.learning_rate)
        return ParameterGroup(
            part=part, parameters=tuple(weights.values()), learning_rate=self.text_learning_rate, until=self.text_until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamBoothTraining:
    """Trained weights in float32, with the base model's own weights kept beside them.

    The base's weights stay on their device and in their dtype, which costs 2 to 4 bytes a weight.
    Float32 weights, gradients and AdamW's two moments already cost 16 bytes a weight. In exchange,
    the base model is restored without a copy.
    """

    groups: tuple[ParameterGroup, ...]
    modules: Mapping[str, nn.Module]
    """Trained part -> its module."""
    base: Mapping[str, Weights]
    """Trained part -> the base model's weights, which are never written to."""
    trained: Mapping[str, Weights]
    layers: Mapping[str, list[str]]
    """Trained part -> layers that an extracted LoRA changes."""
    extract_rank: int | None
    changes_base: Literal[True] = True

    def after_step(self) -> None:
        """Do nothing: the optimizer changes only the trained copies."""

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Use the base model's own weights while the context lasts; gradients are kept."""
        self.detach()
        try:
            yield
        finally:
            for part, module in self.modules.items():
                set_weights(module, self.trained[part])

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Copy each part's state dict under `<part>.<name>`, float32, to the CPU; no metadata."""
        return {
            f"{part}.{name}": tensor.to("cpu", torch.float32, copy=True).contiguous()
            for part, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }, {}

    def companions(self) -> Mapping[str, Companion]:
        """Extract the closest LoRA, in the form of LoRA's own export, with the energy it keeps."""
        if self.extract_rank is None:
            return {}
        rank = self.extract_rank
        tensors: dict[str, Tensor] = {}
        facts: list[tuple[str, str]] = [("rank", str(rank))]
        for part, layers in self.layers.items():
            found = extract(self.modules[part], self.base[part], self.trained[part], rank=rank, layers=layers)
            tensors |= {
                f"{part}.{name_in_file(part, key)}": tensor.cpu().contiguous() for key, tensor in found.tensors.items()
            }
            facts += found.rows(part)
        configs = {
            part: LoraConfig(r=rank, lora_alpha=rank, target_modules=names).to_dict()
            for part, names in self.layers.items()
        }
        metadata = write_metadata(configs)
        return {COMPANION: Companion(tensors=tensors, metadata=metadata, method="lora", facts=tuple(facts))}

    def detach(self) -> None:
        """Restore the base model's own parameters, in their dtype."""
        for part, module in self.modules.items():
            set_weights(module, self.base[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamBoothApplied:
    """Trained weights of a loaded adapter, for generation; other adapters may be beside them."""

    modules: Mapping[str, nn.Module]
    trained: Mapping[str, TrainedWeights]
    """Trained part -> its weights."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part to base + strength x (trained - base); the strength is 1 where missing.

        At 0 the base model's own weights are used, at 1 the trained ones. What other adapters add
        stays.
        """
        for part, trained in self.trained.items():
            strength = scales.get(part, 1.0)
            if strength != trained.strength:
                trained.strength = strength
                sum_of(self.modules[part]).update()

    def remove(self) -> None:
        """Take the trained weights out; the last to go leaves the base model's own."""
        self.scale(dict.fromkeys(self.modules, 0.0))
        for part, module in self.modules.items():
            added = sum_of(module).added
            added[:] = [one for one in added if one is not self.trained[part]]
            if not added and hasattr(module, SUM):
                delattr(module, SUM)

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield each weight's name and its change, as a share of the weight."""
        for part, trained in self.trained.items():
            base = sum_of(self.modules[part]).base
            for name, weight in trained.weights.items():
                yield f"{part}.{name}", share_of(weight.detach(), base[name].detach().float())


changes = sides_of


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> DreamBoothApplied:
    """Replace the base model's weights by exported ones, in float32 as they were trained.

    Beside the weights of another adapter, the changes of both add up.

    Raises:
        UserError: the file is empty, or its tensors are not those of this base model's parts.
    """
    del metadata
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    parts = [part for part in stage.parts if any(key.startswith(f"{part}.") for key in tensors)]
    modules = {part: stage.parts[part] for part in parts}
    expected = {
        f"{part}.{name}": shape for part, module in modules.items() for name, shape in shapes_of_base(module).items()
    }
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wrong := sorted({key for key, _ in expected.items() ^ given.items()}):
        raise UserError(f"these weights do not fit the base: {list_some(wrong)}; use the base they were trained on.")
    trained: dict[str, TrainedWeights] = {}
    for part, module in modules.items():
        weights = sum_of(module)
        setattr(module, SUM, weights)
        copies = {name: frozen_copy(tensors[f"{part}.{name}"], weight) for name, weight in weights.base.items()}
        trained[part] = TrainedWeights(weights=copies)
        weights.added.append(trained[part])
    applied = DreamBoothApplied(modules=modules, trained=trained)
    applied.scale({})
    return applied


def conflicts(settings: DreamBoothSettings, before: DreamBoothSettings) -> dict[str, object]:
    """List what stands against training on: text encoders that were trained must be trained on."""
    if before.text_learning_rate > 0 == settings.text_learning_rate:
        return {"method.text_learning_rate": before.text_learning_rate}
    return {}


def take_over(attached: AttachedMethod, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Start the weights of a run from exported ones; parts that were not trained stay as they are.

    Raises:
        UserError: a part is not trained now, or its weights have other names or shapes.
    """
    del metadata
    assert isinstance(attached, DreamBoothTraining)
    given = {part for part in attached.modules if any(key.startswith(f"{part}.") for key in tensors)}
    expected = {
        f"{part}.{name}": value for part in given for name, value in attached.modules[part].state_dict().items()
    }
    have = {key: tensor.shape for key, tensor in tensors.items()}
    if wrong := sorted(
        {key for key, _ in have.items() ^ {key: value.shape for key, value in expected.items()}.items()}
    ):
        raise UserError(
            f"the weights to start from do not fit what this run trains: {list_some(wrong)}; "
            "train the same parts of the same base, or leave out --from."
        )
    for part in given:
        for name, weight in attached.trained[part].items():
            weight.data.copy_(tensors[f"{part}.{name}"])


def extractable_layers(stage: Stage, part: str) -> list[str]:
    """List the layers of a part where other tools read a LoRA.

    In text encoders they read projections alone.
    """
    return representable(stage.parts[part]) if part == stage.denoiser else stage.adaptable(part, "all")


def share_of(trained: Tensor, base: Tensor) -> float:
    """Return the norm of a weight's change, as a share of its norm; of zeros, the change itself."""
    return ((trained - base).norm() / (base.norm() or 1.0)).item()


def trainable_copy(weight: nn.Parameter) -> nn.Parameter:
    """Copy a weight to a trainable float32 parameter: steps of 5e-6 are lost in 16 bits."""
    return nn.Parameter(weight.detach().to(torch.float32, copy=True))


def frozen_copy(tensor: Tensor, base: nn.Parameter) -> nn.Parameter:
    """Copy a trained weight from a file to float32, on the device of the base's weight.

    Tensors of a file can lie at odd addresses, for which torch takes kernels that round
    differently.
    """
    return nn.Parameter(tensor.to(base.device, torch.float32, copy=True), requires_grad=False)


def set_weights(module: nn.Module, weights: Weights) -> None:
    """Replace the parameters of a module by these, without a copy."""
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, weight)
