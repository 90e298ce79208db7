"""Recipe: everything that decides the outcome of a run, as one frozen value that is written beside the result."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from mascot.data.class_images import PriorSettings
from mascot.data.dataset import DatasetSettings
from mascot.errors import UserError, suggest
from mascot.generation.knobs import Knobs
from mascot.methods.registry import DEFAULT, METHODS, settings_of
from mascot.models.families.registry import family_name
from mascot.models.quantization import QuantizationName
from mascot.protocols import COMMON_TOKEN, Subject
from mascot.recipe.mistakes import describe_mistakes, sections_of
from mascot.recipe.overrides import merge, parse_overrides, read_absences, read_toml, spell_absences
from mascot.recipe.settings import DiagnosisSettings, PreviewSettings, SelectionSettings
from mascot.training.settings import TrainingSettings


class Recipe(BaseModel):
    """Everything that decides the outcome of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(default="starter", min_length=1, description="starter, a folder, a .safetensors file or a hub id")
    photos: tuple[str, ...] = Field(min_length=1, description="folders and files with photos of the subject")
    token: str | None = Field(
        default=None,
        min_length=1,
        description="the word that will mean the subject, a rare one; the base is asked when not given",
    )
    class_noun: str | None = Field(default=None, description="what kind of thing the subject is: dog, toy, ...")
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides everything random")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where it runs; auto takes an accelerator if there is one"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="numbers that are computed with while training"
    )
    base_weights: QuantizationName | None = Field(
        default=None,
        description="int8 or nf4 keeps the frozen denoiser in 8 or 4 bits while something small learns; none in full",
    )
    dataset: DatasetSettings = DatasetSettings()
    method: SerializeAsAny[BaseModel]
    training: TrainingSettings = TrainingSettings()
    prior: PriorSettings = PriorSettings()
    previews: PreviewSettings = PreviewSettings()
    knobs: Knobs = Knobs()
    selection: SelectionSettings = SelectionSettings()
    diagnosis: DiagnosisSettings = DiagnosisSettings()

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
        return Subject(token=COMMON_TOKEN if self.token is None else self.token, class_noun=self.class_noun)

    def fits(self, made: Recipe) -> bool:
        """Whether a run that was made by `made` is a run of this recipe: all is the same, but for a token that this one leaves open."""
        return made == (self if self.token is not None else self.model_copy(update={"token": made.token}))

    @classmethod
    def preset(
        cls, *, base: str | None = None, overrides: Sequence[str] = (), file: Path | None = None, **given: Any
    ) -> Self:
        """Build a recipe: the preset of the base and method, then a file, then what is given by name, then `key.path=value` overrides.

        Raises:
            UserError: all mistakes at once, each with its dotted path.
        """
        written = read_toml(file) if file is not None else {}
        given = {key: value for key, value in given.items() if value is not None}
        changes = merge(merge(written, given | ({} if base is None else {"base": base})), parse_overrides(overrides))
        base = str(changes.get("base", "starter"))
        method = (
            str(changes.get("method", {}).get("name", DEFAULT)) if isinstance(changes.get("method", {}), dict) else ""
        )
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
    path = files("mascot") / "recipe" / "presets" / f"{name}-{method}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def known_keys(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The settings that exist, by dotted path of their section."""
    method = values.get("method", {})
    name = str(method.get("name", DEFAULT)) if isinstance(method, Mapping) else DEFAULT
    sections = dict(sections_of(Recipe))
    if name in METHODS:
        sections |= dict(sections_of(settings_of(name), "method"))
    return sections
