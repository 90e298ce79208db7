"""Every choice of every recipe key and every option, walked from schema and signatures."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mascot.cli.app import COMMANDS
from mascot.methods.registry import DEFAULT, METHODS, settings_of
from mascot.recipe.recipe import Recipe

HUGE = 10**20
"""Stands for the upper end of an integer that has none."""
LARGE = 1e30
"""Stands for the upper end of a number that has none."""
SMALL = 1e-8
"""Distance from an end that is itself excluded."""

TEXTS: Mapping[str, Sequence[str]] = {
    "base": ("{base}", "starter"),
    "photos": ('["{photos}"]', '["{photos}/0.png", "{photos}/1.png"]'),
    "token": ("sks", '"two words"', "none"),
    "class_noun": ("dog", '"great dog"', "none"),
    "dataset.background": ("white", "black", "'#ff0000'", "nocolor"),
    "dataset.templates": ('["a photo of {subject}", "{token} the {class}"]', '["x"]', "[]"),
    "start_from": ("{run}", "nowhere"),
    "dataset.caption_with": ("{captioner}", "nowhere"),
    "prior.folder": ("{class_images}", "nowhere"),
    "previews.prompts": ('["a {subject}", "a {subject} at night"]', "[]"),
    "knobs.negative": ("blurry", '""'),
    "knobs.solver": ("ddim", "dpm++", "euler", "unipc", "none", "bogus"),
    "selection.identity": ("{identity}", "starter", "nowhere"),
    "selection.clip": ("{clip}", "starter", "nowhere"),
    "initial": ("dog", '"a photo of a cat"', "none", '""'),
    "subject.name": ('"pet"', '"two words"', '"class"', '"dog"'),
    "subject.photos": ('["{photos}/0.png", "{photos}/2.png"]', "[]"),
    "subject.token": ('"bluf"', '"two words"', '"zwx"', '"dog"', '"none"'),
    "subject.class_noun": ('"bird"', '"great bird"', '"dog"', '"none"'),
}
"""Key, or its last part inside a method, to values; texts have no ends to walk to."""

TABLES: Mapping[str, Sequence[Mapping[str, str]]] = {
    "subject": (
        {"photos": '["{photos}/0.png"]', "class_noun": '"cat"', "token": '"sks"'},
        {"photos": '["{photos}/1.png"]', "class_noun": '"dog"', "token": '"zwx"'},
    )
}
"""Key of a list of tables to the tables, as TOML; a choice replaces a value of the first."""

FINISHED: Mapping[str, Sequence[str]] = {
    "training.steps": ("1", "3"),
    "training.batch_size": ("1", "4"),
    "training.gradient_accumulation_steps": ("1", "3"),
    "prior.count": ("0", "3"),
    "prior.steps": ("1", "5"),
    "knobs.steps": ("1", "5"),
    "knobs.height": ("64", "128", "none", "8"),
    "knobs.width": ("64", "128", "none", "8"),
    "dataset.resolution": ("32", "96", "none"),
    "diagnosis.images": ("2", "4"),
    "report.images": ("0", "1", "50"),
    "selection.checkpoints": ("1", "2"),
}
"""Key to values that end within seconds, where an end of the range would take hours.

The ends themselves are still read and planned, by `doctor`.
"""

COMPANIONS: Mapping[str, Sequence[str]] = {
    "training.optimizer=prodigy": ("method.learning_rate=1", "method.text_learning_rate=1"),
    "zero_terminal_snr=true": ("prediction=v",),
    "dataset.keep_tags=0": ("dataset.shuffle_tags=true",),
    "dataset.keep_tags=100": ("dataset.shuffle_tags=true",),
    "class_noun=none": ("prior.weight=0",),
    'subject.class_noun="none"': ("prior.weight=0",),
    "method.text_until=1e-08": ("method.text_learning_rate=1e-5",),
}
"""Setting to others without which it is refused."""

UNUSED: Mapping[str, Sequence[str]] = {
    "textual-inversion": ("prior.",),
    "class_noun=none": ("prior.", "selection.checkpoints", "selection.cost"),
    'subject.class_noun="none"': ("prior.", "selection.checkpoints", "selection.cost"),
    "prior.count=0": ("prior.",),
    "prior.weight=0": ("prior.",),
    "prior.form=outputs": ("prior.",),
    "selection.active=false": ("selection.checkpoints", "selection.cost"),
}
"""Setting or method to the beginnings of keys that have no effect beside it, and are refused."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of one recipe key, with the method that has the key."""

    key: str
    value: str
    method: str = DEFAULT

    @property
    def section(self) -> str:
        """The key's first part."""
        return self.key.partition(".")[0]

    @property
    def given(self) -> str:
        """The key and the value."""
        return f"{self.key}={self.value}"

    @property
    def text(self) -> str:
        """The setting as `--set` takes it."""
        if self.section not in TABLES:
            return self.given
        first, *others = TABLES[self.section]
        tables = ({**first, self.key.partition(".")[2]: self.value}, *others)
        return f"{self.section}=[{', '.join(map(inline, tables))}]"

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.method}: {self.given}" if self.key.startswith("method.") else self.given

    def words(self, places: Mapping[str, str]) -> list[str]:
        """The setting, its method and its companions as words of a command."""
        method = () if self.key == "method.name" else (f'method.name="{self.method}"',)
        settings = [*method, self.text, *COMPANIONS.get(self.given, ())]
        return [word for setting in settings for word in ("--set", put(setting, places))]


def inline(table: Mapping[str, str]) -> str:
    """Write a table of TOML values on one line."""
    return f"{{{', '.join(f'{key}={value}' for key, value in table.items())}}}"


def put(text: str, places: Mapping[str, str]) -> str:
    """Put the paths of a test into a text; other braces are placeholders of prompts."""
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    return text


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """List every setting of nested settings, by its dotted key; the method's are not among them."""
    for name, info in model.model_fields.items():
        key = f"{path}.{info.alias or name}".lstrip(".")
        inner = [kind for kind in (info.annotation, *get_args(info.annotation)) if is_section(kind)]
        if inner:
            yield from leaves(inner[0], key)
        elif info.annotation is not BaseModel and not is_serialized_section(info):
            yield key, info


def is_section(kind: object) -> bool:
    """Tell whether a type is a section with settings of its own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel


def is_serialized_section(info: FieldInfo) -> bool:
    """Tell whether a field is the method, whose settings depend on its name."""
    return BaseModel in (info.annotation, *get_args(info.annotation))


def all_settings() -> Iterator[tuple[str, str, FieldInfo]]:
    """List method, key and field of every setting of the recipe and of every method."""
    for key, info in leaves(Recipe):
        yield DEFAULT, key, info
    for method in METHODS:
        for key, info in leaves(settings_of(method), "method"):
            yield method, key, info


def choices_of(key: str, info: FieldInfo) -> list[str]:
    """List every choice of a setting, as TOML: names, switches, ends, texts, and none."""
    kinds = list(flat_kinds(info.annotation))
    found = [shown(value) for kind in kinds for value in literal_values(kind)]
    found += ["true", "false"] if bool in kinds else []
    found += [shown(value) for kind in (int, float) if kind in kinds for value in ends(kind, info)]
    found += list(texts_of(key)) if str in kinds or any(get_origin(kind) is tuple for kind in kinds) else []
    found += ["none"] if types.NoneType in kinds and key.partition(".")[0] not in TABLES else []
    return list(dict.fromkeys(found))


def lacks_texts(key: str, info: FieldInfo) -> bool:
    """Tell whether a setting takes texts of which nobody wrote any."""
    kinds = list(flat_kinds(info.annotation))
    return not texts_of(key) and (str in kinds or any(get_origin(kind) is tuple for kind in kinds))


def texts_of(key: str) -> Sequence[str]:
    """List values of a text; empty where nobody wrote any."""
    return TEXTS.get(key, TEXTS.get(key.rpartition(".")[2], ()) if key.startswith("method.") else ())


def flat_kinds(annotation: Any) -> Iterator[Any]:
    """List the types of a union, and the type behind a named alias."""
    if isinstance(annotation, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        yield from flat_kinds(annotation.__value__)
    elif get_origin(annotation) in {typing.Union, types.UnionType}:
        for kind in get_args(annotation):
            yield from flat_kinds(kind)
    else:
        yield annotation


def literal_values(kind: Any) -> tuple[object, ...]:
    """List the values of a Literal; empty for other types."""
    return get_args(kind) if get_origin(kind) is typing.Literal else ()


def ends(kind: type[int | float], info: FieldInfo) -> list[int | float]:
    """List the ends of a number's range; HUGE and LARGE stand for none."""
    low: float = -LARGE if kind is float else -HUGE
    high: float = LARGE if kind is float else HUGE
    nudge = SMALL if kind is float else 1
    for limit in limits(info):
        match limit:
            case Ge(ge=value):
                low = float(str(value)) if kind is float else int(str(value))
            case Gt(gt=value):
                low = (float(str(value)) if kind is float else int(str(value))) + nudge
            case Le(le=value):
                high = float(str(value)) if kind is float else int(str(value))
            case Lt(lt=value):
                high = (float(str(value)) if kind is float else int(str(value))) - nudge
            case _:
                pass
    return [low, high]


def limits(info: FieldInfo) -> Iterator[object]:
    """List the limits of a field, those of the parts of its annotation too."""
    yield from info.metadata
    for part in get_args(info.annotation):
        yield from getattr(part, "__metadata__", ())


def shown(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else str(value)
    return str(value)


def settings_to_train() -> list[Setting]:
    """List every choice that is trained with: ends that would take hours are replaced."""
    return [
        Setting(key, value, method)
        for method, key, info in all_settings()
        for value in FINISHED.get(key, choices_of(key, info))
    ]


def settings_to_plan() -> list[Setting]:
    """List the ends that are only read and planned, as training with them would take hours."""
    return [
        Setting(key, value, method)
        for method, key, info in all_settings()
        if key in FINISHED
        for value in choices_of(key, info)
        if value not in FINISHED[key]
    ]


@dataclass(frozen=True, slots=True)
class Option:
    """One option or argument of a command, as its signature says."""

    command: str
    name: str
    """Its first name on the command line, or the parameter's for an argument."""
    annotation: Any
    info: Any

    @property
    def choices(self) -> list[list[str]]:
        """The words of every choice that the type tells: names, switches, ends of a range."""
        kinds = list(flat_kinds(self.annotation))
        names = [str(value) for kind in kinds for value in literal_values(kind)]
        if bool in kinds:
            return [[name] for name in declared_names(self.info) or (self.name, f"--no-{self.name[2:]}")]
        limits = [end for end in (self.info.min, self.info.max) if end is not None]
        return [[self.name, text] for text in (*names, *map(str, limits))]


def declared_names(info: Any) -> list[str]:
    """List the names that an option declares for itself, those of its negative too."""
    texts = [info.default, *(info.param_decls or ())]
    return [name for text in texts if isinstance(text, str) for name in text.split("/") if name.startswith("-")]


SERVING = frozenset({"studio"})
"""Commands that run until they are stopped; `studio/test_command.py` tries their options."""


def command_options() -> list[Option]:
    """List every option and argument of every command that ends by itself."""
    found: list[Option] = []
    for command in (one for one in COMMANDS if one.__name__ not in SERVING):
        for name, hint in typing.get_type_hints(command, include_extras=True).items():
            if not get_args(hint) or name == "return":  # the context is no option
                continue
            annotation, info = get_args(hint)
            declared = declared_names(info)
            dashed = f"--{name.replace('_', '-')}" if type(info).__name__ == "OptionInfo" else name
            found.append(Option(command.__name__, declared[0] if declared else dashed, annotation, info))
    return found
