"""What to change about a run that something ails: settings of its own recipe, turned the way that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

TEMPLATES = ("a photo of a {token} {class}", "a {token} {class}", "a picture of a {token} {class}")
"""Captions that keep the token from growing together with the other words of one."""


PRIOR = 1.0
"""The paper's weight of prior preservation (Ruiz et al. 2023, section 4.4)."""


CLASS_IMAGES = 100
"""Class pictures where the recipe has none."""


OUTSIDE = 0.2
"""How much what lies outside the masks may count, where it must not be learned."""


HIGH = 3.0
"""Guidance that is not to blame up to here: on the embedded base, the only one it was looked at on, less only makes pictures softer."""


class Remedy(BaseModel):
    """One change, and what it does; without a setting where none can help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str = ""
    """As `--set` takes it: `key=value`."""
    why: str

    @property
    def option(self) -> str:
        """As it is written on the command line of `mascot train`."""
        key, _, value = self.setting.partition("=")
        quoted = f"'{self.setting}'" if '"' in self.setting else self.setting
        return f"--steps {value}" if key == "training.steps" else f"--set {quoted}" if self.setting else ""

    @property
    def words(self) -> str:
        """Option and reason in one line."""
        return f"{self.option} ({self.why})" if self.setting else self.why


class Recorded:
    """The recipe that an adapter's file records, as nested values; what it does not say is None."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __getitem__(self, key: str) -> Any:
        """The value under a dotted key."""
        found: Any = self.values
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def rates(self, name: str) -> Iterator[tuple[str, float]]:
        """Each learning rate of the method that is called so, however deep, by its dotted key; those that are 0 are left out."""
        waiting: list[tuple[str, Any]] = [("method", self["method"])]
        while waiting:
            path, found = waiting.pop(0)
            for key, value in found.items() if isinstance(found, Mapping) else ():
                if key == name and value:
                    yield f"{path}.{key}", float(value)
                waiting.append((f"{path}.{key}", value))


def times_steps(recipe: Recorded, factor: float, why: str) -> Iterator[Remedy]:
    """Train longer or shorter."""
    steps = recipe["training.steps"]
    if steps is not None:
        turned = min(999_999, max(1, round(steps * factor)))
        yield from [Remedy(setting=f"training.steps={turned}", why=why)] * (turned != steps)


def times_rates(recipe: Recorded, name: str, factor: float, why: str) -> Iterator[Remedy]:
    """Learn faster or slower."""
    for key, learning_rate in recipe.rates(name):
        yield Remedy(setting=f"{key}={min(1.0, float(f'{learning_rate * factor:.2g}'))!r}", why=why)


def times_knob(recipe: Recorded, name: str, factor: float, why: str) -> Iterator[Remedy]:
    """Turn a knob; `mascot generate` takes it as an option of its own, without training again."""
    value = recipe[f"knobs.{name}"]
    if value:
        option = f"--{name.replace('_', '-')}"
        turned = min(100.0, float(f"{value * factor:.2g}"))  # the most that guidance may be; nothing else is turned up
        yield Remedy(
            setting=f"knobs.{name}={turned:g}",
            why=f"{why}; `mascot generate {option} {turned:g}` tries it without training",
        )


def less_guidance(recipe: Recorded, why: str) -> Iterator[Remedy]:
    """Follow the prompt less strictly, where it is followed strictly at all."""
    if (recipe["knobs.guidance"] or 0) > HIGH:
        yield from times_knob(recipe, "guidance", 0.6, why)


def more_prior(recipe: Recorded) -> Iterator[Remedy]:
    """Keep more of the class."""
    weight = recipe["prior.weight"]
    if weight is None or recipe["class_noun"] is None:
        return
    turned = PRIOR if weight < PRIOR else min(100.0, weight * 2)
    yield Remedy(
        setting=f"prior.weight={turned:g}",
        why="the class is trained on beside the subject, so that it stays what it was",
    )
    if recipe["prior.form"] == "images" and not recipe["prior.count"]:
        yield Remedy(setting=f"prior.count={CLASS_IMAGES}", why="pictures of the class are needed for that")


def more_captions(recipe: Recorded) -> Iterator[Remedy]:
    """Say the token in more than one sentence."""
    if len(recipe["dataset.templates"] or TEMPLATES) < len(TEMPLATES):
        written = ", ".join(f'"{template}"' for template in TEMPLATES)
        yield Remedy(
            setting=f"dataset.templates=[{written}]",
            why="with one caption alone the token grows together with its other words",
        )


def of_undertrained(recipe: Recorded) -> Iterator[Remedy]:
    """Learn more."""
    yield from times_steps(recipe, 2, "more time to learn")
    yield from times_rates(recipe, "learning_rate", 2, "each step teaches more")


def of_memorised(recipe: Recorded) -> Iterator[Remedy]:
    """Learn less, from more."""
    yield from times_steps(recipe, 0.5, "stop before the photos are known by heart")
    yield from more_captions(recipe)
    yield from times_knob(recipe, "unet_scale", 0.8, "draws with less of what was learned")
    yield Remedy(why="Add photos in other places and poses: what they share is learned, what differs is not.")


def of_drifted(recipe: Recorded) -> Iterator[Remedy]:
    """Hold the class."""
    yield from more_prior(recipe)
    yield from times_rates(recipe, "learning_rate", 0.5, "slower learning moves less of what is not the subject")
    yield from times_rates(recipe, "text_learning_rate", 0.5, "the words of the class move less")


def of_collapsed(recipe: Recorded) -> Iterator[Remedy]:
    """Leave more to the seed."""
    yield from less_guidance(recipe, "high guidance draws the same picture again")
    yield from times_steps(recipe, 0.5, "variety is lost with time")
    yield Remedy(why="Add photos in other poses: poses that they do not show are not drawn.")


def of_ignored(recipe: Recorded) -> Iterator[Remedy]:
    """Give the rest of the prompt room."""
    yield from times_knob(recipe, "unet_scale", 0.7, "leaves the rest of the prompt more room")
    yield from more_captions(recipe)
    yield from times_steps(recipe, 0.5, "prompts are forgotten with time")
    yield from times_rates(recipe, "text_learning_rate", 0.5, "the words of prompts keep their meaning")


def of_entangled(recipe: Recorded) -> Iterator[Remedy]:
    """Part the subject from what stands behind it."""
    yield from less_guidance(recipe, "high guidance paints the scene onto everything")
    yield from more_captions(recipe)
    if recipe["dataset.masked"] is None:
        yield Remedy(
            setting=f"dataset.masked={OUTSIDE:g}", why="only the subject is learned; the photos need masks for it"
        )
    yield Remedy(
        why="Add photos in front of other backgrounds: what is always there is taken for a part of the subject."
    )


def of_undrawn(recipe: Recorded) -> Iterator[Remedy]:
    """Ask otherwise."""
    yield from times_knob(recipe, "guidance", 1.6, "follows the prompt more strictly")
    yield Remedy(why="Say it in words that the base knows, or take a base that can draw it: training is not to blame.")


def of_leaked(recipe: Recorded) -> Iterator[Remedy]:
    """Hold the subject in token and noun together."""
    yield from more_prior(recipe)
    yield from times_steps(recipe, 0.5, "it leaks with time")
    yield from times_rates(recipe, "text_learning_rate", 0.5, "single words take over less")


def of_alike(recipe: Recorded) -> Iterator[Remedy]:
    """Bring more to learn from."""
    yield Remedy(why="Add photos from other sides and in other places, and remove those that show the same again.")
    yield from times_steps(recipe, 0.5, "little variety is soon known by heart")


REMEDIES: Mapping[str, Callable[[Recorded], Iterator[Remedy]]] = MappingProxyType({
    "undertrained": of_undertrained,
    "memorised": of_memorised,
    "class drifted": of_drifted,
    "diversity collapsed": of_collapsed,
    "prompt ignored": of_ignored,
    "context and looks entangled": of_entangled,
    "context not drawn": of_undrawn,
    "token leaked": of_leaked,
    "photos too alike": of_alike,
})  # fmt: skip
"""Ailment -> what helps against it, the likeliest first."""


def remedies_for(failure_mode: str, recipe: Mapping[str, Any]) -> Sequence[Remedy]:
    """What to change about a run with this recipe, as nested values, against an ailment; the likeliest help first."""
    return tuple(REMEDIES[failure_mode](Recorded(recipe)))
