"""Recipe: everything that decides the outcome of a run, as one frozen value that is written beside the result."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from mascot.data.class_images import Settings as PriorSettings
from mascot.data.dataset import Settings as DatasetSettings
from mascot.errors import UserError, suggest
from mascot.generation.knobs import Knobs
from mascot.generation.prompt_sets import PREVIEWS
from mascot.methods.registry import DEFAULT, METHODS, settings_of
from mascot.models.families.registry import family_name
from mascot.models.quantization import QuantizationName
from mascot.selection import Settings as SelectionSettings
from mascot.subject import FOLKLORE, Subject
from mascot.training.settings import Settings as TrainingSettings


class Previews(BaseModel):
    """Pictures drawn while training, at fixed seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=200, ge=0, description="steps between two previews; 0 draws none")
    prompts: tuple[str, ...] = Field(default=PREVIEWS, min_length=1, description="what they show; preview i has seed + i")
    seed: int = Field(default=0, ge=0, description="seed of the first preview")


class Diagnosing(BaseModel):
    """Whether a run is told what ails it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(default=True, description="draw some pictures more after training, and say in the report what went wrong")
    images: int = Field(default=2, ge=2, le=100, description="pictures of each of its prompts")


class Recipe(BaseModel):
    """Everything that decides the outcome of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(default="starter", min_length=1, description="starter, a folder, a .safetensors file or a hub id")
    photos: tuple[str, ...] = Field(min_length=1, description="folders and files with photos of the subject")
    token: str | None = Field(
        default=None, min_length=1, description="the word that will mean the subject, a rare one; the base is asked when not given"
    )
    class_noun: str | None = Field(default=None, description="what kind of thing the subject is: dog, toy, ...")
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides everything random")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where it runs; auto takes an accelerator if there is one"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="numbers that are computed with while training")
    base_weights: QuantizationName | None = Field(
        default=None, description="int8 or nf4 keeps the frozen denoiser in 8 or 4 bits while something small learns; none in full"
    )
    dataset: DatasetSettings = DatasetSettings()
    method: SerializeAsAny[BaseModel]
    training: TrainingSettings = TrainingSettings()
    prior: PriorSettings = PriorSettings()
    previews: Previews = Previews()
    knobs: Knobs = Knobs()
    choose: SelectionSettings = SelectionSettings()
    diagnose: Diagnosing = Diagnosing()

    @model_validator(mode="before")
    @classmethod
    def parse_absences(cls, values: Any) -> Any:
        """Read `none`, as TOML and `--set` write absence."""
        return read_absences(cls, values)

    @field_validator("method", mode="before")
    @classmethod
    def parse_method(cls, value: Any) -> Any:
        """Read the settings of whichever method is named."""
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"a method is a group of settings; write method.name={value} to choose one")  # noqa: TRY004 - pydantic's
        settings = dict(value)
        name = str(settings.get("name", DEFAULT))
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}{suggest(name, METHODS)}")
        return settings_of(name).model_validate(read_absences(settings_of(name), settings) | {"name": name})

    @property
    def subject(self) -> Subject:
        """Token and class noun; `sks` stands in for a token that is still to be found."""
        return Subject(token=FOLKLORE if self.token is None else self.token, class_noun=self.class_noun)

    def fits(self, made: Recipe) -> bool:
        """Whether a run that was made by `made` is a run of this recipe: all is the same, but for a token that this one leaves open."""
        return made == (self if self.token is not None else self.model_copy(update={"token": made.token}))

    @classmethod
    def preset(cls, *, base: str | None = None, overrides: Sequence[str] = (), file: Path | None = None, **given: Any) -> Self:
        """Build a recipe: the preset of the base and method, then a file, then what is given by name, then `key.path=value` overrides.

        Raises:
            UserError: all mistakes at once, each with its dotted path.
        """
        written = read_toml(file) if file is not None else {}
        given = {key: value for key, value in given.items() if value is not None}
        changes = merge(merge(written, given | ({} if base is None else {"base": base})), parse_overrides(overrides))
        base = str(changes.get("base", "starter"))
        method = str(changes.get("method", {}).get("name", DEFAULT)) if isinstance(changes.get("method", {}), dict) else ""
        return cls.parse(merge(preset_values(base, method), changes | {"base": base}))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate, and say every mistake in one error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(describe_mistakes(error, known_keys(values))) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a complete recipe, as a run keeps it."""
        return cls.parse(read_toml(path))

    def to_toml(self) -> str:
        """Write every value, defaults too; absent ones as `none`, so that no preset fills them when the file is used again."""
        return tomli_w.dumps(spell_absences(self.model_dump(mode="json")))


def preset_values(base: str, method: str) -> dict[str, Any]:
    """The packaged values for a base and a method: those of `starter`, else of the base's family; nothing for an unknown pair."""
    name = "starter" if base == "starter" else family_name(base)
    path = files("mascot") / "recipes" / f"{name}-{method}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the recipe {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"the recipe {path} is not valid TOML ({error}).") from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def spell_absences(value: Any) -> Any:
    """Write absence in nested mappings as `none`: TOML has no null."""
    if isinstance(value, dict):
        return {key: spell_absences(item) for key, item in value.items()}
    return "none" if value is None else value


def read_absences(model: type[BaseModel], values: Any) -> Any:
    """Read `none` as absence wherever a setting may be absent; the inverse of `spell_absences`."""
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    for name in read.keys() & model.model_fields.keys():
        kinds = (model.model_fields[name].annotation, *get_args(model.model_fields[name].annotation))
        if NoneType in kinds and str(read[name]).lower() == "none":
            read[name] = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                read[name] = read_absences(kind, read[name])
    return read


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read `method.rank=16` items; values are TOML where they parse as such, else plain text.

    Raises:
        UserError: an item has no `=` or no key.
    """
    values: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {item!r} is not of the form key=value, such as method.rank=16.")
        nested: Any = parse_value(text.strip())
        for key in reversed(keys):
            nested = {key: nested}
        values = merge(values, nested)
    return values


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself; `none` is absence."""
    if text.lower() == "none":
        return None
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text


def describe_mistakes(error: ValidationError, known: Mapping[str, list[str]]) -> str:
    """Put every mistake of a recipe into one line each: dotted path, what is wrong, what was meant."""
    lines: list[str] = []
    for mistake in error.errors():
        place = [str(part) for part in mistake["loc"]]
        path = ".".join(place)
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{path} is not a setting{suggest(place[-1], known.get('.'.join(place[:-1]), []))}")
        elif mistake["type"] == "missing":
            lines.append(f"{path} is missing.")
        else:
            given = json.dumps(mistake["input"], default=str)[:80]
            said = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{path} = {given}: {said}{'' if said[-1:] in {'.', '?'} else '.'}")
    return "the recipe has mistakes: " + " ".join(lines) if len(lines) > 1 else f"the recipe has a mistake: {lines[0]}"


def known_keys(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The settings that exist, by dotted path of their section."""
    method = values.get("method", {})
    name = str(method.get("name", DEFAULT)) if isinstance(method, Mapping) else DEFAULT
    sections = dict(sections_of(Recipe))
    if name in METHODS:
        sections |= dict(sections_of(settings_of(name), "method"))
    return sections


def sections_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Walk the nested settings."""
    yield path, list(model.model_fields)
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel:
                yield from sections_of(kind, f"{path}.{name}".lstrip("."))
