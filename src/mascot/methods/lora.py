"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank changes of the denoiser and, at their own rate, of the text encoder, through peft."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.errors import UserError
from mascot.latents import seeded
from mascot.protocols import Group, Learner, Stage

ADAPTER = "default"
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers looks for ranks and alphas; without it a file's alpha is taken to equal its rank, in silence."""


class Settings(BaseModel):
    """What a LoRA is and how fast it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["lora"] = Field(default="lora", description="which method this is")
    rank: int = Field(default=16, ge=1, le=512, description="inner width of each change of a weight")
    alpha: float = Field(default=16, gt=0, allow_inf_nan=False, description="changes are multiplied by alpha / rank")
    layers: Literal["attention", "transformer", "all"] = Field(default="attention", description="which layers of the denoiser change")
    rate: float = Field(default=1e-4, gt=0, lt=1, description="learning rate of the denoiser's changes")
    text_rate: float = Field(default=1e-5, ge=0, lt=1, description="learning rate of the text encoder's changes; 0 leaves it alone")

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """The denoiser, and the text encoders unless their rate is 0."""
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_rate > 0)

    def attach(self, stage: Stage, seed: int) -> Learner:
        """Inject fresh changes that are exactly zero, each seeded by its own name.

        Raises:
            UserError: a text encoder shall learn, and this base has none that can.
        """
        if self.text_rate > 0 and len(stage.parts) == 1:
            raise UserError("this base has no text encoder that can learn (its T5 is never trained); give --set method.text_rate=0.")
        groups: list[Group] = []
        for part in self.trains(stage):
            module = stage.parts[part]
            layers = stage.adaptable(part, self.layers)
            config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=layers)  # pyright: ignore[reportArgumentType]
            inject_adapter_in_model(config, module)
            for name, layer in lora_layers(module):
                down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
                down.float()
                up.float()
                noise = torch.randn(down.weight.shape, generator=seeded(seed, part, name))
                down.weight.data.copy_(noise / self.rank)
                nn.init.zeros_(up.weight)
            learning = tuple(p for p in module.parameters() if p.requires_grad)
            groups.append(Group(part=part, parameters=learning, rate=self.rate if part == stage.denoiser else self.text_rate))
        return Attached({group.part: stage.parts[group.part] for group in groups}, tuple(groups))


@dataclass(frozen=True, slots=True)
class Attached:
    """A LoRA that learns."""

    modules: Mapping[str, nn.Module]
    groups: tuple[Group, ...]

    def after_step(self) -> None:
        """Nothing else can have moved."""

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The changes under diffusers' names, float32, with the metadata that keeps alpha."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for part, module in self.modules.items():
            for key, tensor in get_peft_model_state_dict(module, adapter_name=ADAPTER).items():
                tensors[f"{part}.{file_name(part, key)}"] = tensor.detach().float().cpu().contiguous()
            config = peft_config(module)
            config["target_modules"] = sorted(config["target_modules"])
            facts |= {f"{part}.{key}": list(value) if isinstance(value, set) else value for key, value in config.items()}
        return tensors, {METADATA_KEY: json.dumps(facts, sort_keys=True, default=str)}

    def detach(self) -> None:
        """Put the base's own layers back."""
        unwrap(self.modules)


@dataclass(frozen=True, slots=True)
class Worn:
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


def unwrap(modules: Mapping[str, nn.Module]) -> None:
    """Replace every adapted layer by the layer it wraps."""
    for module in modules.values():
        for name, layer in lora_layers(module):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
        del module.peft_config


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Worn:
    """Put an exported LoRA on a stage that has none.

    Raises:
        UserError: the file is empty, or has keys that this base has no layer for.
    """
    facts = read_facts(metadata)
    stray = [key for key in tensors if key.partition(".")[0] not in stage.parts or ".lora_" not in key]
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    if stray:
        raise UserError(f"this adapter does not fit the base: no part of it is called {list_some(stray)}; use the base it was trained on.")
    plans: dict[str, tuple[dict[str, Tensor], LoraConfig]] = {}
    for part in dict.fromkeys(key.partition(".")[0] for key in tensors):
        module = stage.parts[part]
        mine = {layer_name(module, part, key.partition(".")[2]): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        check_fit(module, mine)
        plans[part] = mine, config_from(mine, {key.partition(".")[2]: v for key, v in facts.items() if key.startswith(f"{part}.")})
    modules: dict[str, nn.Module] = {}
    for part, (mine, config) in plans.items():  # only now that every part fits: a refusal leaves the base alone
        module = stage.parts[part]
        device = next(module.parameters()).device
        inject_adapter_in_model(config, module)
        for _, layer in lora_layers(module):
            layer.lora_A[ADAPTER].float().to(device)
            layer.lora_B[ADAPTER].float().to(device)
        set_peft_model_state_dict(module, mine, adapter_name=ADAPTER)
        modules[part] = module.requires_grad_(requires_grad=False).eval()
    return Worn(modules)


def read_facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Parse the ranks and alphas that peft and diffusers keep beside the tensors; none where the file has none."""
    try:
        facts: Any = json.loads(metadata.get(METADATA_KEY, "{}"))
        assert isinstance(facts, dict)
    except (ValueError, RecursionError, AssertionError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error
    return facts


def config_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> LoraConfig:
    """Read ranks off the tensors and alphas off the metadata; without metadata alpha is the rank, as in diffusers."""
    ranks = {key.removesuffix(".lora_A.weight"): len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_A.weight")}
    try:
        rank = int(facts.get("r", max(ranks.values())))
        alpha = float(facts.get("lora_alpha", rank))
        patterns = {name: r for name, r in ranks.items() if r != rank}
        alphas = dict(facts.get("alpha_pattern") or ({} if facts else patterns))
    except (TypeError, ValueError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error
    rslora = bool(facts.get("use_rslora", False))
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(ranks), rank_pattern=patterns, alpha_pattern=alphas, use_rslora=rslora  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have no layer of their shape in the module."""
    layers = dict(module.named_modules())
    wrong: list[str] = []
    for key, tensor in tensors.items():
        name = re.sub(r"\.lora_[AB]\.weight$", "", key)
        weight = getattr(layers.get(name), "weight", None)
        if not isinstance(weight, Tensor) or name == key:
            wrong.append(key)
        elif not has_shape_for(key, tensor, weight):
            wrong.append(f"{key} {tuple(tensor.shape)}")
        elif key.replace(".lora_A.", ".lora_B.") not in tensors or key.replace(".lora_B.", ".lora_A.") not in tensors:
            wrong.append(f"{key} (without its other half)")
        elif ".lora_A." in key and tensor.shape[:1] != tensors[key.replace(".lora_A.", ".lora_B.")].shape[1:2]:
            wrong.append(f"{key} (its other half has another rank)")
    if wrong:
        raise UserError(f"this adapter does not fit the base: {len(wrong)} of its {len(tensors)} keys have no layer, {list_some(wrong)}.")


def has_shape_for(key: str, tensor: Tensor, weight: Tensor) -> bool:
    """Whether one half of a change reads what its layer reads, or writes what it writes."""
    if tensor.ndim != weight.ndim or 0 in tensor.shape:
        return False
    return tensor.shape[1:] == weight.shape[1:] if ".lora_A." in key else len(tensor) == len(weight)


def lora_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Every adapted layer with its name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]


def peft_config(module: nn.Module) -> dict[str, Any]:
    """The settings that peft keeps on an adapted module."""
    configs: Any = module.peft_config
    return configs[ADAPTER].to_dict()


def file_name(part: str, key: str) -> str:
    """Name a layer as other tools do: their text encoders carry a `text_model.` prefix that transformers 5 dropped."""
    return f"text_model.{key}" if part.startswith("text_encoder") and not key.startswith("text_model.") else key


def layer_name(module: nn.Module, part: str, key: str) -> str:
    """The inverse of `file_name`: without the prefix where the text encoder is flat (one with a projection is not)."""
    flat = part.startswith("text_encoder") and not hasattr(module, "text_model")
    return key.removeprefix("text_model.") if flat else key


def list_some(keys: list[str]) -> str:
    """Name up to three keys."""
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
