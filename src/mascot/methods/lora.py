"""LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants, through peft: low-rank changes of the denoiser and of the text encoder."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.lora_keys import file_name, layer_name, metadata_of, read_facts
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, list_some
from mascot.protocols import Companion, Group, Learner, Leg, Stage
from mascot.subject import Subject

ADAPTER = "default"


VARIANTS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "lora": (LoraConfig, {}),
    "rslora": (LoraConfig, {"use_rslora": True}),
    "dora": (LoraConfig, {"use_dora": True}),
    "loha": (LoHaConfig, {}),
    "lokr": (LoKrConfig, {}),
}
"""Variant -> peft's class for it, and its options.

rsLoRA divides alpha by the rank's root (Kalajdzievski 2023, arXiv 2312.03732); DoRA learns sizes beside directions (Liu et al. 2024, arXiv
2402.09353); LoHa and LoKr multiply two small changes element by element (Hyeon-Woo et al. 2022, arXiv 2108.06098) and as a Kronecker
product (Yeh et al. 2023, arXiv 2309.14859). LoCon is LoRA on `layers = "all"`. diffusers 0.42 reads the first two, and a DoRA of the
denoiser; it misreads a DoRA of the text encoder and refuses the last two.
"""
UNFIT: Mapping[str, tuple[str, ...]] = {
    "dora": ("is_loaded_in_8bit",), "loha": ("is_loaded_in_4bit",), "lokr": ("is_loaded_in_4bit",),
}  # fmt: skip
"""Variant -> marks of quantised bases on which it fails inside peft or bitsandbytes."""
MAGNITUDE = ".lora_magnitude_vector"
MARKS = (".lora_", ".hada_", ".lokr_")
"""What the names of adapters' tensors hold."""


class Settings(BaseModel):
    """What a LoRA is and how fast it learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["lora"] = Field(default="lora", description="which method this is")
    rank: int = Field(default=16, ge=1, le=512, description="inner width of each change of a weight")
    alpha: float = Field(default=16, gt=0, allow_inf_nan=False, description="changes are multiplied by alpha / rank")
    variant: Literal["lora", "rslora", "dora", "loha", "lokr"] = Field(
        default="lora", description="how a change is built: lora, rslora, dora, loha, lokr"
    )
    layers: Literal["attention", "transformer", "all"] = Field(default="attention", description="which layers of the denoiser change")
    rate: float = Field(default=1e-4, gt=0, le=1, description="learning rate of the denoiser's changes")
    text_rate: float = Field(default=1e-5, ge=0, le=1, description="learning rate of the text encoder's changes; 0 leaves it alone")
    text_rank: int | None = Field(default=None, ge=1, le=512, description="inner width of the text encoder's changes; none takes rank")
    text_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="alpha of the text encoder's; none takes alpha")
    text_until: float = Field(default=1.0, gt=0, le=1, description="share of the steps after which the text encoder stops learning")

    @property
    def legs(self) -> tuple[Leg, ...]:
        """One phase."""
        return (Leg(phase=self),)

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """The denoiser, and the text encoders unless their rate is 0.

        Raises:
            UserError: a text encoder shall learn, and this base has none that can; or the variant cannot lie on quantised weights.
        """
        if any(getattr(stage.parts[stage.denoiser], flag, False) for flag in UNFIT.get(self.variant, ())):
            raise UserError(f"{self.variant} cannot learn on such quantised weights; give --set base_weights=none, or method.variant=lora.")
        if self.text_rate > 0 and len(stage.parts) == 1:
            raise UserError("this base has no text encoder that can learn (its T5 is never trained); give --set method.text_rate=0.")
        return tuple(part for part in stage.parts if part == stage.denoiser or self.text_rate > 0)

    def attach(self, stage: Stage, subject: Subject, seed: int, before: Learner | None) -> Learner:
        """Inject fresh changes that are exactly zero, each seeded by its own name."""
        del subject, before
        groups: list[Group] = []
        for part in self.trains(stage):
            module, denoises = stage.parts[part], part == stage.denoiser
            self.inject(module, part, stage.adaptable(part, self.layers), seed, denoises=denoises)
            learning = tuple(parameter for _, layer in lora_layers(module) for parameter in changes_of(layer))
            rate, until = (self.rate, 1.0) if denoises else (self.text_rate, self.text_until)
            groups.append(Group(part=part, parameters=learning, rate=rate, until=until))
        return Attached({group.part: stage.parts[group.part] for group in groups}, tuple(groups))

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
class Attached:
    """A LoRA that learns."""

    modules: Mapping[str, nn.Module]
    groups: tuple[Group, ...]
    whole: bool = False

    def after_step(self) -> None:
        """Nothing else can have moved."""

    @contextmanager
    def untouched(self) -> Generator[None]:
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
    stray = [key for key in tensors if key.partition(".")[0] not in stage.parts or not any(mark in key for mark in MARKS)]
    if not tensors:
        raise UserError("this adapter is empty; train or export it again.")
    if stray:
        raise UserError(f"this adapter does not fit the base: no part of it is called {list_some(stray)}; use the base it was trained on.")
    plans: dict[str, tuple[dict[str, Tensor], Any]] = {}
    for part in dict.fromkeys(key.partition(".")[0] for key in tensors):
        module = stage.parts[part]
        mine = {layer_name(module, part, key.partition(".")[2]): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        if any(".lora_" in key for key in mine):
            check_fit(module, mine)
        plans[part] = mine, config_from(mine, {key.partition(".")[2]: v for key, v in facts.items() if key.startswith(f"{part}.")})
    modules: dict[str, nn.Module] = {}
    for part, (mine, config) in plans.items():  # only now that every part fits: a refusal leaves the base alone
        module = stage.parts[part]
        inject_adapter_in_model(config, module)
        in_full_precision(module)
        modules[part] = module
        if wrong := misfits(module, mine):
            unwrap(modules)
            raise UserError(f"this adapter does not fit the base: {len(wrong)} of its {len(mine)} keys have no layer, {list_some(wrong)}.")
        set_peft_model_state_dict(module, mine, adapter_name=ADAPTER)
        modules[part] = module.requires_grad_(requires_grad=False).eval()
    return Worn(modules)


def make_config(variant: str, rank: int, alpha: float, layers: list[str]) -> Any:
    """Give peft's configuration of one variant."""
    kind, options = VARIANTS[variant]
    scale = {"lora_alpha" if kind is LoraConfig else "alpha": alpha}
    return kind(r=rank, target_modules=layers, **scale, **options)


def in_full_precision(module: nn.Module) -> None:
    """Keep changes in float32 beside their layers' weights, whatever those are in."""
    device = next(module.parameters()).device
    for _, layer in lora_layers(module):
        for parameter in changes_of(layer):
            parameter.data = parameter.data.float().to(device)


def changes_of(layer: Any) -> Iterator[nn.Parameter]:
    """What learns in an adapted layer."""
    for changes in (getattr(layer, group) for group in layer.adapter_layer_names):
        if ADAPTER in changes:
            yield from (changes[ADAPTER],) if isinstance(changes, nn.ParameterDict) else changes[ADAPTER].parameters()


def misfits(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that have no place of their shape in an adapted module, and of places that have no tensor."""
    places = {key: tensor.shape for key, tensor in get_peft_model_state_dict(module, adapter_name=ADAPTER).items()}
    given = {key: tensor.shape for key, tensor in tensors.items()}
    return sorted({key for key, _ in places.items() ^ given.items()})


def config_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Any:
    """Read kind and ranks off the tensors and alphas off the metadata; without metadata alpha is the rank, as in diffusers."""
    mark = next(mark for mark in MARKS if mark in next(iter(tensors)))
    try:
        return lora_from(tensors, facts) if mark == ".lora_" else product_from(mark, tensors, facts)
    except (TypeError, ValueError) as error:
        raise UserError("this adapter's metadata is damaged; export it again.") from error


def lora_from(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> LoraConfig:
    """The configuration of a LoRA, an rsLoRA or a DoRA."""
    ranks = {key.removesuffix(".lora_A.weight"): len(tensor) for key, tensor in tensors.items() if key.endswith(".lora_A.weight")}
    rank = int(facts.get("r", max(ranks.values())))
    patterns = {name: r for name, r in ranks.items() if r != rank}
    options: dict[str, Any] = {
        "lora_alpha": float(facts.get("lora_alpha", rank)), "rank_pattern": patterns, "use_rslora": bool(facts.get("use_rslora", False)),
        "alpha_pattern": dict(facts.get("alpha_pattern") or ({} if facts else patterns)),
        "use_dora": any(key.endswith(MAGNITUDE) for key in tensors),
    }  # fmt: skip
    return LoraConfig(r=rank, target_modules=list(ranks), **options)


def product_from(mark: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Any:
    """The configuration of a LoHa or a LoKr, whose tensors do not say all of it.

    Raises:
        UserError: the metadata is missing.
    """
    if "r" not in facts or "alpha" not in facts:
        raise UserError("this adapter does not say its rank and alpha, without which it cannot be read; export it again with its metadata.")
    kind, names = (LoHaConfig if mark == ".hada_" else LoKrConfig), {key.partition(mark)[0] for key in tensors}
    return kind(r=int(facts["r"]), alpha=float(facts["alpha"]), target_modules=sorted(names))  # pyright: ignore[reportArgumentType]


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that have no layer of their shape in the module."""
    layers = dict(module.named_modules())
    wrong: list[str] = []
    for key, tensor in tensors.items():
        name = re.sub(r"\.lora_([AB]\.weight|magnitude_vector)$", "", key)
        shape = shape_of(layers.get(name))
        if shape is None or name == key:
            wrong.append(key)
        elif not has_shape_for(key, tensor, shape):
            wrong.append(f"{key} {tuple(tensor.shape)}")
        elif key.endswith(MAGNITUDE):
            continue
        elif key.replace(".lora_A.", ".lora_B.") not in tensors or key.replace(".lora_B.", ".lora_A.") not in tensors:
            wrong.append(f"{key} (without its other half)")
        elif ".lora_A." in key and tensor.shape[:1] != tensors[key.replace(".lora_A.", ".lora_B.")].shape[1:2]:
            wrong.append(f"{key} (its other half has another rank)")
    if wrong:
        raise UserError(f"this adapter does not fit the base: {len(wrong)} of its {len(tensors)} keys have no layer, {list_some(wrong)}.")


def shape_of(layer: nn.Module | None) -> tuple[int, ...] | None:
    """The shape of a layer's weight, out first; quantised layers hold it in another. None where nothing can be changed."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def has_shape_for(key: str, tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether one half of a change reads what its layer reads, or writes what it writes; a DoRA's sizes are one for each row."""
    if key.endswith(MAGNITUDE):
        return tensor.numel() == shape[0]
    if tensor.ndim != len(shape) or 0 in tensor.shape:
        return False
    return tuple(tensor.shape[1:]) == shape[1:] if ".lora_A." in key else len(tensor) == shape[0]


def lora_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Every adapted layer with its name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]


def peft_config(module: nn.Module) -> dict[str, Any]:
    """The settings that peft keeps on an adapted module."""
    configs: Any = module.peft_config
    return configs[ADAPTER].to_dict()
