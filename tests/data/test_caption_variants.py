"""Laws of captions that vary: what is drawn, by which key, and what stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from mascot.data.captioning.caption_variants import (
    CaptionVariants,
    TagSettings,
    choose_options,
    first_variant,
    longest_variant,
    varies,
    vary_tags,
)
from mascot.data.prompt_templates import fill
from mascot.diffusion.noise import seeded
from mascot.errors import UserError
from mascot.protocols import Subject

TAGS = "{subject}, red, small, on grass, at night"
DOG = Subject("sks", "dog")


def drawn(caption: str, count: int = 200, **settings: object) -> list[str]:
    variants = CaptionVariants(caption=caption, subject=DOG, tags=TagSettings(**settings))
    return [variants.draw(seeded(0, number, 0, "variant")) for number in range(count)]


def test_wildcards_are_drawn_with_equal_probability_and_by_key() -> None:
    found = drawn("a {red|blue |dark green} {subject}, {{x|y}}", 600)
    assert found == drawn("a {red|blue |dark green} {subject}, {{x|y}}", 600)
    counts = Counter(found)
    assert set(counts) == {f"a {color} sks dog, {{x|y}}" for color in ("red", "blue", "dark green")}
    assert min(counts.values()) > 150


def test_an_option_may_be_empty() -> None:
    assert set(drawn("a {|big} {subject}")) == {"a sks dog", "a big sks dog"}


def test_shuffled_tags_are_all_there_and_the_first_stay() -> None:
    found = [caption.split(", ") for caption in drawn(TAGS, shuffle=True, keep=2)]
    assert all(tags[:2] == ["sks dog", "red"] for tags in found)
    assert all(sorted(tags) == sorted(found[0]) for tags in found)
    assert len({tuple(tags) for tags in found}) == 6
    assert len({caption.split(", ")[0] for caption in drawn(TAGS, shuffle=True, keep=0)}) == 5


def test_tags_are_left_out_at_their_rate_and_the_first_stay() -> None:
    found = [caption.split(", ") for caption in drawn(TAGS, 2000, dropout=0.25)]
    assert all(tags[0] == "sks dog" for tags in found)
    assert sum(len(tags) - 1 for tags in found) / 8000 == pytest.approx(0.75, abs=0.02)
    assert all(tags == [tag for tag in fill(TAGS, DOG).split(", ") if tag in tags] for tags in found)


@pytest.mark.parametrize("keep", [0, 1, 9])
def test_a_caption_is_never_left_empty(keep: int) -> None:
    assert all(drawn(TAGS, dropout=1.0, keep=keep))


def test_without_settings_tags_stay_as_written() -> None:
    caption = "  one,two ,, three"
    assert vary_tags(caption, TagSettings(), seeded(0)) == caption
    assert not varies(TAGS, TagSettings())
    assert varies(TAGS, TagSettings(shuffle=True))
    assert not varies("no tags", TagSettings(shuffle=True, dropout=0.5))
    assert varies("{a|b}", TagSettings())
    assert not varies("{{a|b}} {token}", TagSettings())


def test_the_class_prompt_is_the_same_variant_without_the_token() -> None:
    variants = CaptionVariants(caption="a {red|blue} {subject}, small, at night, far", subject=DOG, tags=TagSettings())
    variants = replace(variants, tags=TagSettings(shuffle=True, dropout=0.3))
    for number in range(50):
        key = (7, number, 1, "variant")
        prompt, of_class = variants.draw(seeded(*key)), variants.draw(seeded(*key), of_class=True)
        assert of_class == prompt.replace("sks dog", "dog")


def test_first_and_longest_variant() -> None:
    assert first_variant("a {red|very dark} {class}") == "a red {class}"
    assert longest_variant("a {red|very dark} {class}") == "a very dark {class}"


@pytest.mark.parametrize("name", ["subject", "token", "class"])
def test_a_placeholder_is_no_option(name: str) -> None:
    with pytest.raises(UserError, match=f"write {{{name}}} outside of it"):
        choose_options(f"a {{red|{name}}}", lambda options: options[0])


@pytest.mark.parametrize("caption", ["{a|{b|c}}", "{a {subject}|b}", "a {|{token}} dog"])
def test_a_wildcard_holds_no_braces(caption: str) -> None:
    with pytest.raises(UserError, match="braces inside braces"):
        first_variant(caption)
    assert first_variant("{{{subject}}} {a|b}") == "{{{subject}}} a"


def test_prompts_have_no_wildcards() -> None:
    with pytest.raises(UserError, match="wildcard, not a placeholder"):
        fill("a {red|blue} {subject}", DOG)
