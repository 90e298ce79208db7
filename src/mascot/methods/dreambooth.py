"""DreamBooth (Ruiz et al. 2023, arXiv 2208.12242): every weight of the denoiser learns, on request those of the text encoders."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.lora_extraction import extract, representable
from mascot.adapters.lora_keys import file_name, metadata_of
from mascot.errors import UserError, list_some
from mascot.protocols import AttachedMethod, Companion, ParameterGroup, ScheduledPhase, Stage, Subject

Weights = Mapping[str, nn.Parameter]
"""Every parameter of a module, under its name."""
COMPANION: Final = "low_rank"
"""What the file is called that holds the extracted LoRA."""


class DreamBoothSettings(BaseModel):
    """What learns, how fast, and whether a small file is made of it as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["dreambooth"] = Field(default="dreambooth", description="which method this is")
    learning_rate: float = Field(
        default=5e-6, gt=0, le=1, description="learning rate of the denoiser (the paper's for Stable Diffusion)"
    )
    text_learning_rate: float = Field(
        default=0.0, ge=0, le=1, description="learning rate of the text encoders; 0 leaves them alone"
    )
    text_until: float = Field(
        default=1.0, gt=0, le=1, description="share of the steps after which the text encoders stop learning"
    )
    extract_rank: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="rank of the LoRA that is also extracted from the trained weights; none makes no such file",
    )

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """One phase, all the way."""
        return (ScheduledPhase(phase=self),)

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """The denoiser, and the text encoders unless their rate is 0.

        Raises:
            UserError: a text encoder shall learn, and this base has none that can; or its weights are held in 4 or 8 bits.
        """
        if not all(weight.is_floating_point() for weight in stage.parts[stage.denoiser].parameters()):
            raise UserError(
                "weights in 4 or 8 bits cannot learn; give --set base_weights=none, or choose --method lora."
            )
        if self.text_learning_rate > 0 and len(stage.parts) == 1:
            raise UserError(
                "this base has no text encoder that can learn (its T5 is never trained); give --set method.text_learning_rate=0."
            )
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_learning_rate > 0)

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Put float32 copies of the weights in the base's place, which learn from there on; neither word nor seed matters here."""
        del subject, seed
        assert before is None, "this method has one phase"
        modules = {part: stage.parts[part] for part in self.trains(stage)}
        base = {part: weights_of(module) for part, module in modules.items()}
        learning = {
            part: {name: master_of(weight) for name, weight in weights.items()} for part, weights in base.items()
        }
        for part, module in modules.items():
            put(module, learning[part])
        return DreamBoothTraining(
            groups=tuple(self.group(stage, part, weights) for part, weights in learning.items()),
            modules=modules,
            base=base,
            learning=learning,
            layers={part: extractable(stage, part) for part in modules},
            extract_rank=self.extract_rank,
        )

    def group(self, stage: Stage, part: str, weights: Weights) -> ParameterGroup:
        """All weights of one part, at its rate."""
        if part == stage.denoiser:
            return ParameterGroup(part=part, parameters=tuple(weights.values()), learning_rate=self.learning_rate)
        return ParameterGroup(
            part=part, parameters=tuple(weights.values()), learning_rate=self.text_learning_rate, until=self.text_until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamBoothTraining:
    """Weights that learn, beside the base's own, which nothing writes to.

    Keeping both costs the memory of the base's weights once more, where they are and in their own dtype: beside float32 masters,
    gradients and AdamW's two moments (16 bytes a weight) that is 2 to 4 bytes more. For it the base comes back without a copy.
    """

    groups: tuple[ParameterGroup, ...]
    modules: Mapping[str, nn.Module]
    base: Mapping[str, Weights]
    learning: Mapping[str, Weights]
    layers: Mapping[str, list[str]]
    """The layers of each part that an extracted LoRA changes."""
    extract_rank: int | None
    changes_base: Literal[True] = True

    def after_step(self) -> None:
        """Nothing else can have moved."""

    @contextmanager
    def base_only(self) -> Generator[None]:
        """The base's own weights in their places for as long as the block lasts; gradients so far are kept."""
        self.detach()
        try:
            yield
        finally:
            for part, module in self.modules.items():
                put(module, self.learning[part])

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A copy of each part's state dict as it is now, under `<part>.<name>`, float32, on the CPU; there is no metadata to keep."""
        return {
            f"{part}.{name}": tensor.to("cpu", torch.float32, copy=True).contiguous()
            for part, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }, {}

    def companions(self) -> Mapping[str, Companion]:
        """The LoRA that comes closest to what was learned, as that method's own export would hold it, with the energy it keeps."""
        if self.extract_rank is None:
            return {}
        tensors: dict[str, Tensor] = {}
        facts: list[tuple[str, str]] = [("rank", str(self.extract_rank))]
        for part, layers in self.layers.items():
            found = extract(
                self.modules[part], self.base[part], self.learning[part], rank=self.extract_rank, layers=layers
            )
            tensors |= {
                f"{part}.{file_name(part, key)}": tensor.cpu().contiguous() for key, tensor in found.tensors.items()
            }
            facts += found.rows(part)
        rank = self.extract_rank
        configs = {
            part: LoraConfig(r=rank, lora_alpha=rank, target_modules=names).to_dict()
            for part, names in self.layers.items()
        }
        return {COMPANION: Companion(tensors=tensors, metadata=metadata_of(configs), method="lora", facts=tuple(facts))}

    def detach(self) -> None:
        """Put the base's own weights back: the very parameters that were there, in their dtype."""
        for part, module in self.modules.items():
            put(module, self.base[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamBoothApplied:
    """Trained weights that draw, beside the base's own; both stay on the module's device."""

    modules: Mapping[str, nn.Module]
    base: Mapping[str, Weights]
    trained: Mapping[str, Weights]
    strengths: dict[str, float] = field(default_factory=dict[str, float])
    """Part -> the strength it has now."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part to base + strength x (trained - base); at 0 the base's own weights are used, at 1 the trained ones."""
        for part, module in self.modules.items():
            strength = scales.get(part, 1.0)
            if strength != self.strengths.get(part):
                put(module, self.weights(part, strength))
                self.strengths[part] = strength

    def weights(self, part: str, strength: float) -> Weights:
        """A part's weights at a strength."""
        base, trained = self.base[part], self.trained[part]
        if strength in {0, 1}:
            return trained if strength else base
        return {
            name: nn.Parameter(torch.lerp(base[name].detach().float(), weight.detach(), strength), requires_grad=False)
            for name, weight in trained.items()
        }

    def remove(self) -> None:
        """Put the base's own weights back."""
        self.scale(dict.fromkeys(self.modules, 0.0))


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> DreamBoothApplied:
    """Put trained weights in the place of the base's own, in float32 as they were learned.

    Raises:
        UserError: the file is empty, or its tensors are not those of this base's parts.
    """
    del metadata
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    parts = [part for part in stage.parts if any(key.startswith(f"{part}.") for key in tensors)]
    modules = {part: stage.parts[part] for part in parts}
    places = {
        f"{part}.{name}": tensor.shape
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    given = {key: tensor.shape for key, tensor in tensors.items()}
    if wrong := sorted({key for key, _ in places.items() ^ given.items()}):
        raise UserError(f"these weights do not fit the base: {list_some(wrong)}; use the base they were trained on.")
    base = {part: weights_of(module) for part, module in modules.items()}
    trained = {
        part: {name: worn_from(tensors[f"{part}.{name}"], w) for name, w in weights.items()}
        for part, weights in base.items()
    }
    applied = DreamBoothApplied(modules=modules, base=base, trained=trained)
    applied.scale({})
    return applied


def extractable(stage: Stage, part: str) -> list[str]:
    """Layers of a part that a LoRA can change where other tools read it: in text encoders they know of projections alone."""
    return representable(stage.parts[part]) if part == stage.denoiser else stage.adaptable(part, "all")


def weights_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of a module, under its name."""
    weights = dict(module.named_parameters(remove_duplicate=False))
    assert len({id(weight) for weight in weights.values()}) == len(weights), "no two layers share a weight"
    return weights


def master_of(weight: nn.Parameter) -> nn.Parameter:
    """A float32 copy that learns: steps of 5e-6 are lost in 16 bits."""
    return nn.Parameter(weight.detach().to(torch.float32, copy=True))


def worn_from(tensor: Tensor, place: nn.Parameter) -> nn.Parameter:
    """A float32 copy of trained weights, beside a base's; at the odd addresses of a file torch takes kernels that round otherwise."""
    return nn.Parameter(tensor.to(place.device, torch.float32, copy=True), requires_grad=False)


def put(module: nn.Module, weights: Weights) -> None:
    """Let a module use these parameters; nothing is copied."""
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, weight)
