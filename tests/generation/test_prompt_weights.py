"""The grammar of prompts: brackets, weights, escapes, BREAK, and how tokens become chunks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.diffusion.prompt_chunks import Chunk
from mascot.errors import UserError
from mascot.generation.prompts.chunk_plan import split_part
from mascot.generation.prompts.prompt_weights import MOST, escape, parse_prompt


def read(prompt: str) -> list[list[tuple[str, float]]]:
    """A prompt as pairs of text and weight, by part."""
    return [[(phrase.text, phrase.weight) for phrase in part] for part in parse_prompt(prompt).parts]


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a red dog", [("a red dog", 1)]),
        ("a (red:1.3) dog", [("a ", 1), ("red", 1.3), (" dog", 1)]),
        ("a (red: .5 ) dog", [("a ", 1), ("red", 0.5), (" dog", 1)]),
        ("a (red) dog", [("a ", 1), ("red", 1.1), (" dog", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.909091)]),
        ("[(red)]", [("red", 1)]),
        ("(red:1.0) dog", [("red dog", 1)]),
        ("(a (red:1.5) dog:1.2)", [("a ", 1.2), ("red", 1.8), (" dog", 1.2)]),
        ("(red:0)", [("red", 0)]),
        ("(f:8:1.2)", [("f:8", 1.2)]),
        (r"a dog \(sitting\)", [("a dog (sitting)", 1)]),
        (r"(a \(red\) dog:1.2)", [("a (red) dog", 1.2)]),
        (r"\[a\] \\(b)", [("[a] \\", 1), ("b", 1.1)]),
        ("a dog (sitting", [("a dog (sitting", 1)]),
        ("sitting) a dog", [("sitting) a dog", 1)]),
        (":( :1.3", [(":( :1.3", 1)]),
        (":) :1.3) :(", [(":) :1.3) :(", 1)]),
        ("a [dog", [("a [dog", 1)]),
        (r"C:\dogs", [(r"C:\dogs", 1)]),
        ("()", []),
        ("", []),
    ],
)
def test_brackets_are_read_as_in_other_tools(prompt: str, phrases: list[tuple[str, float]]) -> None:
    assert read(prompt) == [phrases]


def test_break_begins_a_part_inside_brackets_too() -> None:
    assert read("a dog BREAK a red hat") == [[("a dog", 1)], [("a red hat", 1)]]
    assert read("(a dog BREAK a red hat:1.2) here") == [[("a dog", 1.2)], [("a red hat", 1.2), (" here", 1)]]
    assert read("a dog BREAK") == [[("a dog", 1)], []]
    assert read("BREAKFAST, a break") == [[("BREAKFAST, a break", 1)]]
    assert parse_prompt("a dog BREAK (red:1.3) hat BREAK ").text == "a dog red hat"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a (red:13) dog", "weighs 'red' by 13"),
        ("a ((red:2):2) dog", "weighs 'red' by 4"),
        ("a (red:-1) dog", "weighs 'red' by -1"),
        ("at (3:30) a dog", "weighs '3' by 30"),
        ("a [cat:dog:0.5]", "between steps"),
        ("a [cat:10]", "between steps"),
        ("a [cat|dog]", "between steps"),
        ("a dog <lora:owl:0.8>", "prompts load no adapters"),
        (f"(red:{'9' * 400})", "weighs"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_remedy_that_works(prompt: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        parse_prompt(prompt)
    if r"\(" in str(refused.value) or r"\[" in str(refused.value):
        assert read(escape(prompt)) == [[(prompt, 1)]]


TEXT = st.text(st.characters(exclude_characters="()[]\\:<|BREAK", exclude_categories=["C"]), min_size=1, max_size=9)
ODD = st.text(st.sampled_from("()[]\\:.123 ab|<>BREAK\n,"), max_size=40)


@given(st.text())
def test_an_escaped_text_is_itself(text: str) -> None:
    parts = parse_prompt(escape(text)).parts if "BREAK" not in text and "<" not in text else ()
    assert not parts or "".join(phrase.text for phrase in parts[0]) == text
    assert all(phrase.weight == 1 for part in parts for phrase in part)


@given(ODD)
def test_any_brackets_are_read_or_refused(prompt: str) -> None:
    said, parts = "", ()
    try:
        parts = parse_prompt(prompt).parts
    except UserError as refused:
        said = str(refused)
    assert "\n" not in said
    if said:
        return
    weights = [phrase.weight for part in parts for phrase in part]
    assert all(0 <= weight <= MOST for weight in weights)
    letters = "".join(phrase.text for part in parts for phrase in part)
    rest = iter(prompt)
    assert all(letter in rest for letter in letters)  # letters come in their order, and none is new
    if not set(prompt) & set("()[]\\") and "BREAK" not in prompt:
        assert parse_prompt(prompt).text == prompt


@st.composite
def nested(draw: st.DrawFn, depth: int = 3) -> tuple[str, list[tuple[str, float]]]:
    """A prompt of brackets in brackets, and the phrases that it stands for."""
    written, meant = "", list[tuple[str, float]]()
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["text", "round", "square", "number"] if depth else ["text"]))
        if kind == "text":
            text = draw(TEXT)
            written, meant = written + text, [*meant, (text, 1.0)]
            continue
        inside, phrases = draw(nested(depth=depth - 1))
        number = draw(st.sampled_from([0.5, 0.8, 1.0, 1.25]))
        opened, closed, factor = {
            "round": ("(", ")", 1.1),
            "square": ("[", "]", 1 / 1.1),
            "number": ("(", f":{number})", number),
        }[kind]
        written += f"{opened}{inside}{closed}"
        meant += [(text, weight * factor) for text, weight in phrases]
    return written, meant


@given(nested())
def test_weights_within_weights_multiply(prompt: tuple[str, list[tuple[str, float]]]) -> None:
    written, meant = prompt
    letters = [(letter, weight) for part in read(written) for text, weight in part for letter in text]
    expected = [(letter, weight) for text, weight in meant for letter in text]
    assert [letter for letter, _ in letters] == [letter for letter, _ in expected]
    assert all(math.isclose(one, other, abs_tol=1e-6) for (_, one), (_, other) in zip(letters, expected, strict=True))


COMMA = 7
"""The token of a comma."""


def split(tokens: list[int], length: int = 75) -> list[list[int]]:
    """Split single tokens into chunks."""
    return [list(chunk.tokens) for chunk in split_part([((token,), 1.0) for token in tokens], length, (COMMA,))]


def test_a_full_chunk_ends_after_a_comma_near_its_end() -> None:
    plain = [1] * 80
    assert [len(chunk) for chunk in split(plain)] == [75, 5]
    for at, first in ((54, 75), (55, 56), (70, 71), (74, 75)):
        tokens = [*plain]
        tokens[at] = COMMA
        assert [len(chunk) for chunk in split(tokens)] == [first, 80 - first], at
    assert split([1] * 75 + [COMMA, 1]) == [[1] * 75, [COMMA, 1]]
    assert split([]) == [[]]
    assert split([1] * 75) == [[1] * 75]


@given(
    st.lists(st.tuples(st.lists(st.integers(5, 9), min_size=1, max_size=4), st.floats(0, 3)), max_size=60),
    st.integers(4, 30),
)
def test_chunks_hold_all_tokens_in_order_and_groups_stay_whole(
    drawn: list[tuple[list[int], float]], length: int
) -> None:
    groups = [(tuple(tokens), weight) for tokens, weight in drawn]
    chunks = split_part(groups, length, (COMMA,))
    assert [token for chunk in chunks for token in chunk.tokens] == [token for group, _ in groups for token in group]
    assert [one for chunk in chunks for one in chunk.weights] == [weight for group, weight in groups for _ in group]
    assert all(len(chunk.tokens) == len(chunk.weights) <= length for chunk in chunks)
    assert all(chunk.tokens for chunk in chunks) or chunks == [Chunk()]
    ends, place = set[int](), 0
    for chunk in chunks:
        place += len(chunk.tokens)
        ends.add(place)
    place = 0
    for group, _ in groups:
        assert not ends & set(range(place + 1, place + len(group)))
        place += len(group)
