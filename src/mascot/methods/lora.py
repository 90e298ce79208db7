"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants, through peft.

It trains low-rank changes of weights in the denoiser and the text encoders.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.lora_keys import (
    T5_PREFIX,
    TENSOR_MARKS,
    PartSettings,
    name_in_file,
    name_in_module,
    read_settings,
    write_metadata,
)
from mascot.adapters.peft_layers import (
    ADAPTER,
    UNSUPPORTED_QUANTIZATION,
    adapter_parameters,
    cast_to_float32,
    check_factors,
    check_fit,
    config_from,
    disable_dropout,
    does_not_fit,
    lora_layers,
    make_config,
    mismatched_keys,
    peft_config,
    relative_change,
    shaped_like_weights,
)
from mascot.adapters.sides import DENOISER, TEXT_ENCODERS, Sides, sides_of
from mascot.adapters.stacked_layers import inject, name_in_base, set_strength, unused_name, unwrap
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, list_some
from mascot.protocols import (
    AttachedMethod,
    Companion,
    ParameterGroup,
    ScheduledPhase,
    Stage,
    Subject,
)


class LoraSettings(BaseModel):
    """Recipe settings of LoRA: its variant, ranks, layers and learning rates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["lora"] = Field(default="lora", description="name of the method")
    rank: int = Field(default=16, ge=1, le=512, description="rank of each low-rank weight change")
    alpha: float = Field(default=16, gt=0, le=10_000, description="weight changes are multiplied by alpha / rank")
    variant: Literal["lora", "rslora", "dora", "loha", "lokr"] = Field(
        default="lora", description="form of the weight changes: lora, rslora, dora, loha, lokr"
    )
    layers: Literal["attention", "transformer", "all"] = Field(
        default="attention", description="layers of the denoiser that are adapted"
    )
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="learning rate of the denoiser's layers")
    text_learning_rate: float = Field(
        default=1e-5, ge=0, le=1, description="learning rate of the text encoders' layers; 0 does not train them"
    )
    text_rank: int | None = Field(
        default=None, ge=1, le=512, description="rank in the text encoders; none takes the denoiser's rank"
    )
    text_alpha: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="alpha in the text encoders; none takes the denoiser's alpha",
    )
    text_until: float = Field(
        default=1.0, gt=0, le=1, description="share of the steps after which the text encoders are frozen"
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
        names = ("text_rank", "text_alpha", "text_until")
        return dict.fromkeys(names, "text_learning_rate") if self.text_learning_rate == 0 else {}

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """List the trained parts: the denoiser, and the text encoders unless their rate is 0.

        Raises:
            UserError: text encoders have a learning rate, and this base model has none that can be
                trained; or the variant does not support the base model's quantized weights.
        """
        flags = UNSUPPORTED_QUANTIZATION.get(self.variant, ())
        if any(getattr(stage.parts[stage.denoiser], flag, False) for flag in flags):
            raise UserError(
                f"{self.variant} cannot be trained on such quantized weights; "
                "give --set base_weights=none, or method.variant=lora."
            )
        if self.text_learning_rate > 0 and len(stage.parts) == 1:
            raise UserError(
                "this base has no text encoder that can be trained (its T5 never is); "
                "give --set method.text_learning_rate=0."
            )
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_learning_rate > 0)

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Inject new low-rank layers; each changes nothing yet, and is seeded by its own name."""
        del subject, before
        groups: list[ParameterGroup] = []
        for part in self.trains(stage):
            module, is_denoiser = stage.parts[part], part == stage.denoiser
            self.inject(module, part, stage.adaptable(part, self.layers), seed, is_denoiser=is_denoiser)
            parameters = tuple(p for _, layer in lora_layers(module) for p in adapter_parameters(layer))
            learning_rate = self.learning_rate if is_denoiser else self.text_learning_rate
            until = 1.0 if is_denoiser else self.text_until
            groups.append(ParameterGroup(part=part, parameters=parameters, learning_rate=learning_rate, until=until))
        return LoraTraining({group.part: stage.parts[group.part] for group in groups}, tuple(groups))

    def inject(self, module: nn.Module, part: str, layers: list[str], seed: int, *, is_denoiser: bool) -> None:
        """Wrap the layers of one part in low-rank layers, and draw their initial weights."""
        rank = self.rank if is_denoiser else self.text_rank or self.rank
        alpha = self.alpha if is_denoiser else self.text_alpha or self.alpha
        with torch.random.fork_rng(devices=[]):  # peft draws initial weights from the global generator
            torch.manual_seed(seeded(seed, part).initial_seed())
            inject_adapter_in_model(make_config(self.variant, rank, alpha, layers), module)
        cast_to_float32(module)
        disable_dropout(module)
        for name, layer in lora_layers(module):
            if "lora_A" in layer.adapter_layer_names:
                down = layer.lora_A[ADAPTER].weight
                down.data.copy_(torch.randn(down.shape, generator=seeded(seed, part, name)) / rank)


@dataclass(frozen=True, slots=True)
class LoraTraining:
    """LoRA layers during training."""

    modules: Mapping[str, nn.Module]
    """Trained part -> its module, with adapted layers."""
    groups: tuple[ParameterGroup, ...]
    changes_base: bool = False

    def after_step(self) -> None:
        """Do nothing: the optimizer changes only the LoRA layers."""

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Disable the LoRA layers while the context lasts; what is trained stays the same."""
        layers = [layer for module in self.modules.values() for _, layer in lora_layers(module)]
        before = [(parameter, parameter.requires_grad) for layer in layers for parameter in adapter_parameters(layer)]
        for layer in layers:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(enabled=True)
            for parameter, requires_grad in before:  # peft makes every parameter trainable that it enables
                parameter.requires_grad = requires_grad

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the LoRA tensors under diffusers' names, float32, and metadata with alphas."""
        tensors = {
            f"{part}.{name_in_file(part, key)}": tensor.detach().float().cpu().contiguous()
            for part, module in self.modules.items()
            for key, tensor in get_peft_model_state_dict(module, adapter_name=ADAPTER).items()
        }
        return tensors, write_metadata({part: peft_config(module) for part, module in self.modules.items()})

    @staticmethod
    def companions() -> Mapping[str, Companion]:
        """Return no companion files: other tools read the export itself."""
        return {}

    def detach(self) -> None:
        """Restore the base model's own layers."""
        unwrap(self.modules.values())


@dataclass(frozen=True, slots=True)
class LoraApplied:
    """LoRA layers of a loaded adapter, for generation; other adapters may be beside them."""

    modules: Mapping[str, nn.Module]
    """Adapted part -> its module."""
    adapter: str
    """Its name inside peft's layers."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part's strength, 1 where it is missing; at 0 its layers are disabled.

        Disabled layers give exactly the base model's outputs.
        """
        for part, module in self.modules.items():
            set_strength([module], self.adapter, scales.get(part, 1.0))

    def remove(self) -> None:
        """Restore the base model's own layers, or those of other adapters."""
        unwrap(self.modules.values(), self.adapter)

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield each layer's name and its change at full strength, as a share of its weights."""
        for part, module in self.modules.items():
            for name, layer in lora_layers(module):
                if self.adapter in layer.r:
                    yield f"{part}.{name_in_base(name)}", relative_change(layer, self.adapter)


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Tensors of one part under its module's names, and the peft configuration they need."""

    tensors: Mapping[str, Tensor]
    config: Any


changes = sides_of


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LoraApplied:
    """Apply an exported LoRA to a stage, beside the adapters that it has.

    Raises:
        UserError: the file is empty, changes a T5, or has tensors without a layer in this base.
    """
    settings = read_settings(metadata)
    stray = [key for key in tensors if part_of(key) not in stage.parts or not any(mark in key for mark in TENSOR_MARKS)]
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    if t5 := [key for key in stray if key.partition(".")[2].startswith(T5_PREFIX)]:
        raise UserError(
            f"this adapter changes a T5, in {list_some(t5)}, and mascot adapts no T5; "
            "generate with the tool that wrote it, or give an adapter that leaves the T5 alone."
        )
    if stray:
        raise UserError(
            f"this adapter does not fit the base: it has no part called {list_some(stray)}; "
            "use the base it was trained on."
        )
    parts = dict.fromkeys(part_of(key) for key in tensors)
    plans = {part: plan_part(stage.parts[part], part, tensors, settings.get(part)) for part in parts}
    return inject_plans(stage, plans)


def conflicts(settings: LoraSettings, before: LoraSettings) -> dict[str, object]:
    """List the settings that differ from those of an earlier LoRA, and would change its meaning."""
    now, trained = shape_of(settings), shape_of(before)
    wrong = {f"method.{key}": value for key, value in trained.items() if key in now and now[key] != value}
    if before.text_learning_rate > 0 == settings.text_learning_rate:
        wrong["method.text_learning_rate"] = before.text_learning_rate
    return wrong


def shape_of(settings: LoraSettings) -> dict[str, object]:
    """Collect the settings that decide which tensors there are, and what they stand for."""
    shape = {name: getattr(settings, name) for name in ("rank", "alpha", "variant", "layers")}
    if settings.text_learning_rate > 0:
        shape["text_rank"] = settings.text_rank or settings.rank
        shape["text_alpha"] = settings.text_alpha or settings.alpha
    return shape


def take_over(attached: AttachedMethod, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Start the layers of a run from exported ones; parts that were not trained stay as they are.

    Raises:
        UserError: a part is not trained now, or its layers, ranks or alphas differ.
    """
    assert isinstance(attached, LoraTraining)
    settings = read_settings(metadata)
    if lost := sorted({part_of(key) for key in tensors} - attached.modules.keys()):
        raise UserError(
            f"the adapter to start from changes {list_some(lost)}, which this run does not train; "
            "give the learning rates of those parts, or leave out --from."
        )
    for part, module in attached.modules.items():
        own = part_tensors(module, part, tensors)
        if own and (wrong := [*mismatched_keys(module, own), *differing_settings(module, settings.get(part))]):
            raise UserError(
                f"the adapter to start from does not fit the layers of this run ({part}: {list_some(wrong)}); "
                "give the rank, alpha, variant and layers that it was trained with, or leave out --from."
            )
        if own:
            set_peft_model_state_dict(module, own, adapter_name=ADAPTER)


def differing_settings(module: nn.Module, before: PartSettings | None) -> list[str]:
    """List the settings of peft in which a module's layers differ from those of a file."""
    now, given = peft_config(module), {} if before is None else before.model_dump(exclude_none=True)
    names = ("r", "lora_alpha", "alpha", "use_rslora")
    return [f"{name} {given[name]}" for name in names if name in given and name in now and given[name] != now[name]]


def part_of(key: str) -> str:
    """Read the part off a tensor's name in the file."""
    return key.partition(".")[0]


def plan_part(module: nn.Module, part: str, tensors: Mapping[str, Tensor], settings: PartSettings | None) -> PartPlan:
    """Select one part's tensors and settings from a file, and check that the tensors fit."""
    own = part_tensors(module, part, tensors)
    low_rank = [".lora_" in key for key in own]
    if all(low_rank):
        own = shaped_like_weights(module, own)
        check_fit(module, own)
    elif any(low_rank):
        raise UserError(
            f"this adapter mixes LoRA with LoHa or LoKr in one part ({part}), which mascot cannot apply; "
            "generate with the tool that wrote it."
        )
    else:
        check_factors(module, own)
    return PartPlan(own, config_from(own, settings))


def part_tensors(module: nn.Module, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select one part's tensors from a file, under the names of its module."""
    prefix = f"{part}."
    return {
        name_in_module(module, part, key.removeprefix(prefix)): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }


def inject_plans(stage: Stage, plans: Mapping[str, PartPlan]) -> LoraApplied:
    """Inject and load the low-rank layers of all parts; a part that does not fit undoes them."""
    adapter = unused_name(stage.parts.values())
    modules: dict[str, nn.Module] = {}
    for part, plan in plans.items():
        modules[part] = stage.parts[part]
        if wrong := inject(modules[part], plan.config, plan.tensors, adapter):
            unwrap(modules.values(), adapter)
            raise UserError(does_not_fit(wrong, len(plan.tensors)))
    return LoraApplied(modules, adapter)
