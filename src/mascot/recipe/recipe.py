"""The recipe of a run: read from presets, files and options, and written beside the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, cast

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from mascot.data.class_images import PriorSettings
from mascot.data.dataset import DatasetSettings
from mascot.errors import UserError, suggest
from mascot.generation.knobs import Knobs
from mascot.methods.registry import DEFAULT, METHODS, settings_of
from mascot.models.base_files.base_reading import BaseReading, Prediction
from mascot.models.families.registry import check_reading, preset_name
from mascot.models.quantization import QuantizationName
from mascot.protocols import Subject
from mascot.recipe.mistakes import describe_mistakes, sections_of
from mascot.recipe.optimizer_needs import optimizer_needs
from mascot.recipe.overrides import merge, parse_overrides, read_none, read_toml, write_none
from mascot.recipe.settings import (
    CheckpointSettings,
    DiagnosisSettings,
    PreviewSettings,
    ReportSettings,
    SelectionSettings,
)
from mascot.recipe.starting_point import values_from
from mascot.recipe.subject_tables import KEY, RecipeSubjects, Tables, read_tables, subjects_of, without_tables
from mascot.storage.strict_parsing import MalformedText, check_values
from mascot.training.settings import TrainingSettings


class Recipe(BaseModel):
    """Every setting that decides the outcome of a run, with a section for each part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(
        default="starter", min_length=1, description="base model: starter, folder, .safetensors file or hub id"
    )
    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="adapter that training starts from: a run, RUN@STEP or an adapter file; none starts from the base",
    )
    photos: tuple[str, ...] = Field(min_length=1, description="folders and files of photos of all subjects")
    token: str | None = Field(
        default=None,
        min_length=1,
        description="identifier token of the subject, a rare word; none chooses one for the base",
    )
    class_noun: str | None = Field(default=None, description="class noun of the subject: dog, toy, ...")
    tables: Tables = Field(default=(), alias=KEY, description="a table for each of several subjects")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all random draws of training")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="device to run on; auto takes an accelerator if there is one"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="floating-point precision of training"
    )
    base_weights: QuantizationName | None = Field(
        default=None,
        description="int8 or nf4 quantizes the frozen denoiser to 8 or 4 bits; none keeps full precision",
    )
    prediction: Prediction = Field(
        default="auto", description="what the denoiser predicts: epsilon (noise) or v (velocity); auto asks the base"
    )
    zero_terminal_snr: bool | None = Field(
        default=None, description="whether the noise schedule ends in pure noise; none asks the base"
    )
    clip_skip: int = Field(default=0, ge=0, le=64, description="layers skipped at the end of the CLIP text encoders")
    dataset: DatasetSettings = DatasetSettings()
    method: SerializeAsAny[BaseModel]
    training: TrainingSettings = TrainingSettings()
    prior: PriorSettings = PriorSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    previews: PreviewSettings = PreviewSettings()
    knobs: Knobs = Knobs()
    selection: SelectionSettings = SelectionSettings()
    diagnosis: DiagnosisSettings = DiagnosisSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="before")
    @classmethod
    def parse_none(cls, values: Any) -> Any:
        """Read the string `none` as None, as TOML and `--set` write absence; name the subjects."""
        read = read_none(cls, values)
        return read_tables(cast("Mapping[str, Any]", read)) if isinstance(read, Mapping) else read

    @model_serializer(mode="wrap")
    def write_subjects(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a single subject's keys, or the tables of several."""
        return without_tables(handler(self))

    @field_validator("method", mode="before")
    @classmethod
    def parse_method(cls, value: Any) -> Any:
        """Validate the section `method` by the settings class of the method that it names."""
        return read_method(value)

    @property
    def subjects(self) -> RecipeSubjects:
        """The subjects, one or several."""
        return subjects_of(self.tables, self.photos, self.token, self.class_noun)

    @property
    def subject(self) -> Subject:
        """The subject, or the first of several, which knows the others."""
        return self.subjects.first

    @property
    def reading(self) -> BaseReading:
        """How the base is read."""
        return BaseReading.model_validate({name: getattr(self, name) for name in BaseReading.model_fields})

    def fits(self, other: Recipe) -> bool:
        """Return whether a run of `other` is a run of this recipe.

        All settings must be equal, except that a subject without a token fits any token.
        """
        tokens = other.subjects.tokens
        return len(self.subjects.tokens) == len(tokens) and other == with_tokens(self, tokens)

    @classmethod
    def preset(
        cls, *, base: str | None = None, overrides: Sequence[str] = (), file: Path | None = None, **given: Any
    ) -> Self:
        """Build a recipe from the preset of its base and method, with changes on top.

        Of several values for one key, the last in this order wins: preset, the adapter to start
        from, what the optimizer needs that is chosen, `file`, `base` and `given`, `overrides`.

        Args:
            base: The base model; None takes that of the file, else the starter.
            overrides: Items such as `method.rank=16`.
            file: A recipe file, complete or partial.
            given: Values of top-level keys; None counts as not given. `photos` may be one path.

        Raises:
            UserError: all mistakes at once, each with its key; or the base cannot be read so.
        """
        in_file = read_toml(file) if file is not None else {}
        given = {key: value for key, value in given.items() if value is not None}
        given |= {"photos": paths_of(given["photos"])} if "photos" in given else {}
        changes = merge(merge(in_file, given | ({} if base is None else {"base": base})), parse_overrides(overrides))
        recipe = cls.parse(with_presets(changes))
        check_reading(recipe.base, recipe.reading)
        return recipe

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate nested values.

        Raises:
            UserError: all mistakes at once, each with its key.
        """
        try:
            check_values(values, finite=False)
        except MalformedText as error:
            raise UserError(f"the recipe cannot be used ({error}); correct it.") from None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(describe_mistakes(error, known_keys(values))) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a complete recipe, such as `recipe.toml` in a run's folder.

        Raises:
            UserError: the file is missing, no TOML, or has mistakes.
        """
        return cls.parse(read_toml(path))

    def to_toml(self) -> str:
        """Write all values as TOML, defaults too.

        Absent ones are written as `none`, so that no preset fills them when the file is used again.
        """
        return tomli_w.dumps(write_none(self.model_dump(mode="json")))


def paths_of(photos: object) -> object:
    """Write one path or several as texts; anything else stays as it is, and is refused later."""
    if isinstance(photos, str | Path):
        return [str(photos)]
    if isinstance(photos, Sequence):
        return [str(one) if isinstance(one, Path) else one for one in cast("Sequence[object]", photos)]
    return photos


def method_in(values: Mapping[str, Any]) -> str | None:
    """Return the method that nested values name; None where they name none."""
    section = values.get("method", {})
    name = section.get("name") if isinstance(section, Mapping) else ""
    return None if name is None else str(name)


def needs_of(changes: Mapping[str, Any], lower: Mapping[str, Any], method: str) -> dict[str, object]:
    """Collect what an optimizer needs that `changes` choose, over the values of `lower`."""
    training, given, own = (
        values.get(key) for values, key in ((changes, "training"), (changes, "method"), (lower, "method"))
    )
    if not isinstance(training, Mapping) or "optimizer" not in training or method not in METHODS:
        return {}
    kind = settings_of(method)
    settings = {**(own if isinstance(own, Mapping) else {}), "name": method}
    try:
        filled = kind.model_validate(read_none(kind, settings)).model_dump()
    except ValidationError:  # the whole recipe is validated next
        return {}
    return optimizer_needs(training["optimizer"], filled, given if isinstance(given, Mapping) else {})


def preset_values(base: str, method: str) -> dict[str, Any]:
    """Read the preset of a base and a method; empty for an unknown pair.

    The starter has presets of its own, other bases have those of their family.
    """
    name = "starter" if base == "starter" else preset_name(base)
    path = files("mascot") / "recipe" / "presets" / f"{name}-{method}.toml"
    return read_toml(Path(str(path))) if path.is_file() else {}


def known_keys(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """List the keys of each section, by its dotted path, for the method that `values` name."""
    method = values.get("method", {})
    name = str(method.get("name", DEFAULT)) if isinstance(method, Mapping) else DEFAULT
    sections = dict(sections_of(Recipe))
    if name in METHODS:
        sections |= dict(sections_of(settings_of(name), "method"))
    return sections


def with_tokens(recipe: Recipe, tokens: Sequence[str | None]) -> Recipe:
    """Give each subject that has no token the one in its place."""
    filled = [new if own is None else own for own, new in zip(recipe.subjects.tokens, tokens, strict=True)]
    pairs = zip(recipe.tables, filled, strict=False)
    tables = tuple(table.model_copy(update={"token": token}) for table, token in pairs)
    return recipe.model_copy(update={"tables": tables} if tables else {"token": filled[0]})


def read_method(value: object) -> BaseModel:
    """Validate the section `method` by the settings class of the method that it names.

    Raises:
        ValueError: it is no group of settings, or names no method.
    """
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a method is a group of settings; write method.name={value} to choose one")  # noqa: TRY004 - pydantic's
    settings = dict(value)
    name = str(settings.get("name", DEFAULT))
    if name not in METHODS:
        raise ValueError(f"method.name: unknown method {name!r}{suggest(name, METHODS)}")
    return settings_of(name).model_validate(read_none(settings_of(name), settings | {"name": name}))


def with_presets(changes: Mapping[str, object]) -> dict[str, object]:
    """Fill what a user did not set: from the adapter to start from, the preset, the optimizer."""
    start = changes.get("start_from")
    named = isinstance(start, str) and start not in {"", "none"}
    started = values_from(str(start), method_in(changes), alone=KEY not in changes) if named else {}
    both = merge(started, changes)
    base, method = str(both.get("base", "starter")), method_in(both) or DEFAULT
    lower = merge(preset_values(base, method), started | {"base": base})
    return merge(merge(lower, needs_of(changes, lower, method)), changes)
