"""Laws of mistakes in recipes: errors for keys and values of older recipes name the new ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.recipe.mistakes import MISTAKES, RENAMED_KEYS
from mascot.recipe.recipe import Recipe


def build(*overrides: str) -> Recipe:
    """Build a recipe on the embedded base."""
    return Recipe.preset(overrides=overrides, photos=("p",))


def refusal(overrides: list[str], text: str, folder: Path) -> str:
    """Build a recipe from overrides and a file of this text, and return the error's message."""
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        Recipe.preset(overrides=overrides, file=path, photos=("p",))
    return str(raised.value)


RENAMED = {
    "lora": {
        "method.rate": "method.learning_rate",
        "method.text_rate": "method.text_learning_rate",
        "training.schedule": "training.lr_schedule",
        "training.warmup": "training.warmup_steps",
        "training.accumulation": "training.gradient_accumulation_steps",
        "training.clip": "training.max_grad_norm",
        "training.ema": "training.ema_decay",
        "choose.active": "selection.active",
        "choose.looks": "selection.checkpoints",
        "choose.patience": "selection.patience",
        "choose.knobs": "selection.knobs",
        "choose.identity": "selection.identity",
        "choose.clip": "selection.clip",
        "choose.cost": "selection.cost",
        "diagnose.active": "diagnosis.active",
        "diagnose.images": "diagnosis.images",
    },
    "pivotal": {
        "method.layers.rate": "method.layers.learning_rate",
        "method.layers.text_rate": "method.layers.text_learning_rate",
        "method.word.rate": "method.token.learning_rate",
        "method.word.vectors": "method.token.vectors",
        "method.word_share": "method.token_share",
        "method.word_rate_after": "method.token_learning_rate_after",
    },
}
"""Method -> key of older recipes -> its present name."""
OLD_KEYS = [(method, old, new) for method, keys in RENAMED.items() for old, new in keys.items()]


@pytest.mark.parametrize(("method", "old", "new"), OLD_KEYS, ids=str)
def test_the_error_for_a_key_of_an_older_recipe_names_the_new_key(
    method: str, old: str, new: str, tmp_path: Path
) -> None:
    message = f"the recipe has a mistake: {old} is now {new}."
    section, _, name = old.rpartition(".")
    text = f"[method]\nname = '{method}'\n"
    text = f"{text}{name} = 1\n" if section == "method" else f"{text}[{section}]\n{name} = 1\n"
    for overrides, file in ([f"method.name={method}", f"{old}=1"], ""), ([], text):
        assert refusal(overrides, file, tmp_path) == message


def test_all_keys_of_an_older_section_are_named_at_once() -> None:
    with pytest.raises(
        UserError, match=r"has mistakes: choose\.looks is now selection\.checkpoints\. choose\.cost is now"
    ):
        build("choose.looks=3", "choose.cost=1")
    with pytest.raises(UserError, match=r"has a mistake: choose is now selection\.$"):
        build("choose.looks=3", "choose.nonsense=1")
    with pytest.raises(UserError, match=r"has a mistake: choose is now selection\.$"):
        build("choose=1")


def test_the_error_for_a_value_of_an_older_recipe_names_the_new_value(tmp_path: Path) -> None:
    message = 'the recipe has a mistake: prior.form = "pictures" is now "images".'
    for overrides, file in (["prior.form=pictures"], ""), ([], "[prior]\nform = 'pictures'"):
        assert refusal(overrides, file, tmp_path) == message


def test_a_new_key_is_named_only_where_the_method_has_it() -> None:
    with pytest.raises(UserError, match=r"method\.word is not a setting"):
        build("method.word.rate=1")


def test_every_renamed_key_has_a_law() -> None:
    sections = {old.rpartition(".")[0] for _, old, _ in OLD_KEYS}
    assert RENAMED_KEYS.keys() <= {old for _, old, _ in OLD_KEYS} | sections


def test_many_unknown_keys_are_counted_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    assert "it is larger than 1 MiB" in refusal([], "".join(f"k{i} = 1\n" for i in range(300_000)), tmp_path)
    for section in ("", "[method]\n", "[training]\n"):
        message = refusal([], section + "".join(f"k{i} = 1\n" for i in range(10_000)), tmp_path)
        assert message.count(" is not a setting") == MISTAKES
        assert message.endswith(f"There are {10_000 - MISTAKES} more.")
    with pytest.raises(UserError, match=f"There are {10_000 - MISTAKES} more"):
        build(*(f"k{i}=1" for i in range(10_000)))
    assert time.monotonic() - began < 20


def test_a_long_unknown_key_is_shortened(tmp_path: Path) -> None:
    message = refusal([], f"{'k' * 100_000} = 1", tmp_path)
    assert len(message) < 1_000


TOO_MUCH = {
    "a = " + "[" * 2_000 + "]" * 2_000: "nested more than 64 deep",
    "seed = " + "9" * 4_300: "more than 100 digits",
    "seed = " + "9" * 4_301: "more than 100 digits",
    "[" + ".".join("a" * 2_000) + "]": "nested more than 64 deep",
}


@pytest.mark.parametrize("text", TOO_MUCH, ids=lambda text: text[:9])
def test_a_recipe_beyond_all_limits_is_a_sentence(tmp_path: Path, text: str) -> None:
    assert TOO_MUCH[text] in refusal([], text, tmp_path)
    if not text.startswith("["):
        with pytest.raises(UserError, match=f"cannot be read .*{TOO_MUCH[text]}"):
            build(text)
    with pytest.raises(UserError, match="not of the form"):
        build(".".join("a" * 2_000) + "=1")


def test_overrides_of_one_section_are_merged_in_order() -> None:
    recipe = build("method={rank=3}", "method.alpha=2", "method.rank=5", "training={steps=7}")
    method = recipe.method.model_dump()
    assert (method["rank"], method["alpha"], recipe.training.steps) == (5, 2, 7)
