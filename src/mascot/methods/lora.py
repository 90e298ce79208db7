"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants, through peft: low-rank changes of the denoiser and of the text encoder."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.lora_keys import file_name, layer_name, metadata_of, read_facts
from mascot.adapters.peft_layers import (
    ADAPTER,
    MARKS,
    UNFIT,
    changes_of,
    check_fit,
    config_from,
    in_full_precision,
    lora_layers,
    make_config,
    misfits,
    peft_config,
    unwrap,
)
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, list_some
from mascot.protocols import AttachedMethod, Companion, ParameterGroup, ScheduledPhase, Stage, Subject


class LoraSettings(BaseModel):
    """What a LoRA is and how fast it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["lora"] = Field(default="lora", description="which method this is")
    rank: int = Field(default=16, ge=1, le=512, description="inner width of each change of a weight")
    alpha: float = Field(default=16, gt=0, allow_inf_nan=False, description="changes are multiplied by alpha / rank")
    variant: Literal["lora", "rslora", "dora", "loha", "lokr"] = Field(
        default="lora", description="how a change is built: lora, rslora, dora, loha, lokr"
    )
    layers: Literal["attention", "transformer", "all"] = Field(
        default="attention", description="which layers of the denoiser change"
    )
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="learning rate of the denoiser's changes")
    text_learning_rate: float = Field(
        default=1e-5, ge=0, le=1, description="learning rate of the text encoder's changes; 0 leaves it alone"
    )
    text_rank: int | None = Field(
        default=None, ge=1, le=512, description="inner width of the text encoder's changes; none takes rank"
    )
    text_alpha: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="alpha of the text encoder's; none takes alpha"
    )
    text_until: float = Field(
        default=1.0, gt=0, le=1, description="share of the steps after which the text encoder stops learning"
    )

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """One phase."""
        return (ScheduledPhase(phase=self),)

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """The denoiser, and the text encoders unless their rate is 0.

        Raises:
            UserError: a text encoder shall learn, and this base has none that can; or the variant cannot lie on quantised weights.
        """
        if any(getattr(stage.parts[stage.denoiser], flag, False) for flag in UNFIT.get(self.variant, ())):
            raise UserError(
                f"{self.variant} cannot learn on such quantised weights; give --set base_weights=none, or method.variant=lora."
            )
        if self.text_learning_rate > 0 and len(stage.parts) == 1:
            raise UserError(
                "this base has no text encoder that can learn (its T5 is never trained); give --set method.text_learning_rate=0."
            )
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_learning_rate > 0)

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Inject fresh changes that are exactly zero, each seeded by its own name."""
        del subject, before
        groups: list[ParameterGroup] = []
        for part in self.trains(stage):
            module, denoises = stage.parts[part], part == stage.denoiser
            self.inject(module, part, stage.adaptable(part, self.layers), seed, denoises=denoises)
            learning = tuple(parameter for _, layer in lora_layers(module) for parameter in changes_of(layer))
            learning_rate, until = (self.learning_rate, 1.0) if denoises else (self.text_learning_rate, self.text_until)
            groups.append(ParameterGroup(part=part, parameters=learning, learning_rate=learning_rate, until=until))
        return LoraTraining({group.part: stage.parts[group.part] for group in groups}, tuple(groups))

    def inject(self, module: nn.Module, part: str, layers: list[str], seed: int, *, denoises: bool) -> None:
        """Wrap the layers of one part."""
        rank = self.rank if denoises else self.text_rank or self.rank
        alpha = self.alpha if denoises else self.text_alpha or self.alpha
        with torch.random.fork_rng(devices=[]):  # peft fills fresh changes from the global generator
            torch.manual_seed(seeded(seed, part).initial_seed())
            inject_adapter_in_model(make_config(self.variant, rank, alpha, layers), module)
        in_full_precision(module)
        for name, layer in lora_layers(module):
            if "lora_A" in layer.adapter_layer_names:
                down = layer.lora_A[ADAPTER].weight
                down.data.copy_(torch.randn(down.shape, generator=seeded(seed, part, name)) / rank)


@dataclass(frozen=True, slots=True)
class LoraTraining:
    """A LoRA that learns."""

    modules: Mapping[str, nn.Module]
    groups: tuple[ParameterGroup, ...]
    changes_base: bool = False

    def after_step(self) -> None:
        """Nothing else can have moved."""

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Switch the changes off for a while; which of them learn stays as it is."""
        layers = [layer for module in self.modules.values() for _, layer in lora_layers(module)]
        learning = [(parameter, parameter.requires_grad) for layer in layers for parameter in changes_of(layer)]
        for layer in layers:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(enabled=True)
            for parameter, learns in learning:  # peft lets everything learn that it switches on
                parameter.requires_grad = learns

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The changes under diffusers' names, float32, with the metadata that keeps alpha."""
        tensors = {
            f"{part}.{file_name(part, key)}": tensor.detach().float().cpu().contiguous()
            for part, module in self.modules.items()
            for key, tensor in get_peft_model_state_dict(module, adapter_name=ADAPTER).items()
        }
        return tensors, metadata_of({part: peft_config(module) for part, module in self.modules.items()})

    @staticmethod
    def companions() -> Mapping[str, Companion]:
        """None: other tools read the export itself."""
        return {}

    def detach(self) -> None:
        """Put the base's own layers back."""
        unwrap(self.modules)


@dataclass(frozen=True, slots=True)
class LoraApplied:
    """A LoRA that draws."""

    modules: Mapping[str, nn.Module]

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part's strength; at 0 the layers are switched off, so the base answers with its own bits."""
        for part, module in self.modules.items():
            strength = scales.get(part, 1.0)
            for _, layer in lora_layers(module):
                layer.enable_adapters(enabled=strength != 0)
                layer.set_scale(ADAPTER, strength)

    def remove(self) -> None:
        """Put the base's own layers back."""
        unwrap(self.modules)


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LoraApplied:
    """Put an exported LoRA on a stage that has none.

    Raises:
        UserError: the file is empty, or has keys that this base has no layer for.
    """
    facts = read_facts(metadata)
    stray = [
        key for key in tensors if key.partition(".")[0] not in stage.parts or not any(mark in key for mark in MARKS)
    ]
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    if stray:
        raise UserError(
            f"this adapter does not fit the base: no part of it is called {list_some(stray)}; use the base it was trained on."
        )
    plans: dict[str, tuple[dict[str, Tensor], Any]] = {}
    for part in dict.fromkeys(key.partition(".")[0] for key in tensors):
        module = stage.parts[part]
        mine = {
            layer_name(module, part, key.partition(".")[2]): value
            for key, value in tensors.items()
            if key.startswith(f"{part}.")
        }
        if any(".lora_" in key for key in mine):
            check_fit(module, mine)
        plans[part] = (
            mine,
            config_from(mine, {key.partition(".")[2]: v for key, v in facts.items() if key.startswith(f"{part}.")}),
        )
    modules: dict[str, nn.Module] = {}
    for part, (mine, config) in plans.items():  # only now that every part fits: a refusal leaves the base alone
        module = stage.parts[part]
        inject_adapter_in_model(config, module)
        in_full_precision(module)
        modules[part] = module
        if wrong := misfits(module, mine):
            unwrap(modules)
            raise UserError(
                f"this adapter does not fit the base: {len(wrong)} of its {len(mine)} keys have no layer, {list_some(wrong)}."
            )
        set_peft_model_state_dict(module, mine, adapter_name=ADAPTER)
        modules[part] = module.requires_grad_(requires_grad=False).eval()
    return LoraApplied(modules)
