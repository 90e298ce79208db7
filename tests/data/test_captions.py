"""Laws of captions: which source wins, what errors say, and that only three placeholders exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mascot.data.captions import METADATA, caption_photos
from mascot.data.photos import Photo, PhotoSet, read_photos
from mascot.data.prompt_templates import (
    DEFAULT_TEMPLATE,
    class_prompt,
    fill,
    insert_token,
    names_subject,
    without_token,
)
from mascot.errors import UserError
from mascot.protocols import Subject

PLAIN = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    return tmp_path


def rows(folder: Path, *lines: object) -> None:
    (folder / METADATA).write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8"
    )


def captions(folder: Path, template: str = DEFAULT_TEMPLATE) -> list[str]:
    return [caption for photo in caption_photos(read_photos([folder]), [template]).photos for caption in photo.captions]


def test_a_text_file_wins_over_metadata_and_metadata_over_the_template(folder: Path) -> None:
    (folder / "1.txt").write_text("{subject} on grass", encoding="utf-8")
    rows(folder, {"file_name": "1.png", "text": "not this"}, {"file_name": "2.png", "text": "{token} indoors"})
    assert captions(folder, "a drawing of {subject}") == [
        "{subject} on grass",
        "{token} indoors",
        "a drawing of {subject}",
    ]
    assert captions(folder)[2] == DEFAULT_TEMPLATE


@pytest.mark.parametrize("key", ["text", "caption", "prompt"])
def test_a_caption_may_have_any_of_three_names(folder: Path, key: str) -> None:
    rows(folder, {"file_name": "./2.png", key: "found"}, "")
    assert captions(folder)[1] == "found"


def test_captions_become_one_line(folder: Path) -> None:
    (folder / "1.txt").write_bytes("\ufeff  a  photo\r\n\tof {subject}, größer \n".encode())
    rows(folder, {"file_name": "2.png", "text": "two\n lines"})
    assert captions(folder)[:2] == ["a photo of {subject}, größer", "two lines"]


def test_a_caption_without_placeholder_is_kept_as_written(folder: Path) -> None:
    (folder / "1.txt").write_text("a brown dog", encoding="utf-8")
    assert captions(folder)[0] == "a brown dog"


def test_nothing_but_the_captions_changes(folder: Path) -> None:
    before = read_photos([folder])
    after = caption_photos(before)
    assert [(photo.path, photo.image, photo.mask) for photo in after.photos] == [
        (p.path, p.image, p.mask) for p in before.photos
    ]
    assert (after.refused, after.notes) == (before.refused, before.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1.txt, line 1: the caption is empty"),
        (b" \n\t", "1.txt, line 1: the caption is empty"),
        (b"fine\nfine\ncaf\xe9", "1.txt, line 3: this is not UTF-8"),
        ("a photo".encode("utf-16"), "1.txt, line 1: this is not UTF-8"),
        (b"a photo of {subjct}", "1.txt: .*did you mean 'subject'"),
        (b"a photo of {", "1.txt: .*lone {"),
    ],
)
def test_a_bad_text_file_is_named_with_its_line(folder: Path, content: bytes, message: str) -> None:
    (folder / "1.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        captions(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ('["2.png"]', "write an object"),
        ({"text": "x"}, "no file_name"),
        ({"file_name": 2, "text": "x"}, "no file_name"),
        ({"file_name": "22.png", "text": "x"}, r"no file '22.png' .*did you mean '2.png'"),
        ({"file_name": "zebra", "text": "x"}, "no file 'zebra' .*correct the name"),
        ({"file_name": "1.png", "text": "again"}, "has a caption already"),
        ({"file_name": "2.png", "label": "x"}, "there is no caption"),
        ({"file_name": "2.png", "text": " "}, "text is empty"),
        ({"file_name": "2.png", "text": None}, "text is empty"),
        ({"file_name": "2.png", "text": "{clas}"}, "did you mean 'class'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(folder: Path, line: object, message: str) -> None:
    rows(folder, {"file_name": "1.png", "text": "fine"}, "", line)
    with pytest.raises(UserError, match=f"{METADATA}, line 3: .*{message}"):
        captions(folder)


def test_a_bad_template_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"The template: .*'token'"):
        caption_photos(PhotoSet(photos=()), ["a photo of {tokn}"])


def test_a_photo_without_a_folder_of_its_own_takes_the_template(tmp_path: Path) -> None:
    photo = Photo(path=tmp_path / "gone" / "1.png", image=Image.new("RGB", (40, 40)))
    assert caption_photos(PhotoSet(photos=(photo,)), ["x  {token}", "{class} y"]).photos[0].captions == (
        "x {token}",
        "{class} y",
    )


@pytest.mark.parametrize(
    ("template", "with_class", "without"),
    [
        (DEFAULT_TEMPLATE, "a photo of sks dog", "a photo of sks"),
        ("{subject}", "sks dog", "sks"),
        ("a {class}, {token}", "a dog, sks", "a, sks"),
        ("{class} {token}", "dog sks", "sks"),
        ("{{token}} {token}", "{token} sks", "{token} sks"),
        ("{{{token}}}", "{sks}", "{sks}"),
        ("{{class}} of {token}", "{class} of sks", "{class} of sks"),
        ("no placeholder", "no placeholder", "no placeholder"),
    ],
)
def test_three_placeholders_are_filled(template: str, with_class: str, without: str) -> None:
    assert fill(template, Subject("sks", "dog")) == with_class
    assert fill(template, Subject("sks")) == without


@given(PLAIN, PLAIN)
def test_text_without_braces_changes_only_in_white_space(before: str, after: str) -> None:
    assert fill(f"{before} {{subject}} {after}", Subject("sks", "dog")) == " ".join(f"{before} sks dog {after}".split())


@given(PLAIN.filter(lambda name: name not in {"subject", "token", "class"}))
def test_any_other_placeholder_is_a_user_error(name: str) -> None:
    with pytest.raises(UserError, match="placeholder"):
        fill(f"a {{{name}}}", Subject("sks", "dog"))


@pytest.mark.parametrize("template", ["{", "}", "a {token", "token} b", "{{{token}}"])
def test_a_lone_brace_is_a_user_error(template: str) -> None:
    with pytest.raises(UserError, match="lone"):
        fill(template, Subject("sks"))


def test_blank_words_are_user_errors() -> None:
    for make in (
        lambda: Subject(" "),
        lambda: Subject("sks", ""),
        lambda: class_prompt(" "),
        lambda: fill("{class}", Subject("sks")),
    ):
        with pytest.raises(UserError, match="empty"):
            make()


def test_words_are_token_and_class() -> None:
    assert Subject("sks", "dog").words == "sks dog"
    assert Subject("sks").words == "sks"


@pytest.mark.parametrize(
    ("article", "nouns"),
    [
        (
            "a",
            [
                "dog",
                "unicorn",
                "uniform",
                "university",
                "european car",
                "one-eyed cat",
                "ukulele",
                "utensil",
                "used car",
                "house",
                "ewe",
            ],
        ),
        (
            "an",
            [
                "owl",
                "umbrella",
                "urn",
                "uncle",
                "unimpressed cat",
                "unidentified object",
                "onesie",
                "hourglass",
                "heirloom",
                "Apple",
            ],
        ),
    ],
)
def test_the_article_follows_the_sound(article: str, nouns: list[str]) -> None:
    for noun in nouns:
        assert class_prompt(noun) == f"a photo of {article} {noun}"


@pytest.mark.parametrize(
    ("template", "noun", "filled"),
    [
        ("a photo of a {class}", "owl", "a photo of an owl"),
        ("An {class} and a {class}", "dog", "A dog and a dog"),
        ("a {subject} at night", "owl", "a sks owl at night"),
        ("a red {class}", "owl", "a red owl"),
        ("a {{class}", None, None),
    ],
)
def test_an_article_before_a_placeholder_fits_its_word(template: str, noun: str | None, filled: str | None) -> None:
    if filled is None:
        with pytest.raises(UserError, match="lone }"):
            fill(template, Subject("sks", noun))
    else:
        assert fill(template, Subject("sks", noun)) == filled


@pytest.mark.parametrize(
    ("caption", "noun", "inserted"),
    [
        ("a brown dog on a sofa, another dog", "dog", "a brown sks dog on a sofa, another dog"),
        ("an owl at night", "owl", "a sks owl at night"),
        ("Dog in the snow", "dog", "sks Dog in the snow"),
        ("the {class} of a dog", "dog", "the sks dog of a dog"),
        ("an {class}", "dog", "a sks dog"),
        ("my stuffed animal, asleep", "stuffed  animal", "my sks stuffed animal, asleep"),
        ("two dogs in a doghouse, a hot-dog", "dog", "sks dog, two dogs in a doghouse, a hot-dog"),
        ("sitting in the snow", "dog", "sks dog, sitting in the snow"),
        ("sitting in the snow", None, "sks, sitting in the snow"),
        ("a dog {{token}} {{class}}", "dog", "a sks dog {token} {class}"),
        ("{{class}} and {class}", "dog", "{class} and sks dog"),
        ("{subject} beside a dog", "dog", "sks dog beside a dog"),
        ("a {token} beside a dog", "dog", "a sks beside a dog"),
        ("a photo of sks dog", "dog", "a photo of sks dog"),
        ("SKS, a dog", "dog", "SKS, a dog"),
        ("a dog with sksy fur", "dog", "a sks dog with sksy fur"),
    ],
)
def test_the_token_is_inserted_before_the_class_noun_or_in_front(caption: str, noun: str | None, inserted: str) -> None:
    subject = Subject("sks", noun)
    assert fill(insert_token(caption, subject), subject) == inserted


@pytest.mark.parametrize(
    ("caption", "noun", "without"),
    [
        (DEFAULT_TEMPLATE, "dog", "a photo of dog"),
        ("a photo of {subject}", "dog", "a photo of dog"),
        ("a {subject} at night", "owl", "an owl at night"),
        ("an {token} {class}", "dog", "a dog"),
        ("a {token} owl", "owl", "an owl"),
        ("An sks dog, {token}", "dog", "A dog"),
        ("a {token} at night", "owl", "an owl at night"),
        ("{token} on grass", "dog", "dog on grass"),
        ("a photo of sks", "dog", "a photo of dog"),
        ("{token}, a {class}", "dog", "a dog"),
        ("a {class}, {token}", "dog", "a dog"),
        ("{token} the brown {class} at night", "dog", "the brown dog at night"),
        ("a brown dog", "dog", "a brown dog"),
        ("no name,", "dog", "no name,"),
        ("a {{token}} of {{{token}}}", "dog", "a {token} of {dog}"),
    ],
)
def test_without_its_token_a_caption_describes_the_class(caption: str, noun: str, without: str) -> None:
    subject = Subject("sks", noun)
    assert fill(without_token(caption, subject), subject) == without


def test_without_a_class_noun_there_is_no_caption_of_the_class() -> None:
    with pytest.raises(UserError, match="--class-noun dog"):
        without_token("a photo of {token}", Subject("sks"))


@pytest.mark.parametrize("token", ["token", "subject", "class", "<sks>", "a.b", "s k s", "dog"])
@pytest.mark.parametrize("caption", ["{subject} and {{subject}}", "a {token} {class}", "a {class}", "plain"])
def test_any_token_can_be_inserted_and_removed(token: str, caption: str) -> None:
    """Tokens may be placeholder names, regex characters, several words or the class noun itself."""
    subject = Subject(token, "dog")
    inserted = insert_token(caption, subject)
    assert token in fill(inserted, subject)
    assert insert_token(inserted, subject) == inserted
    assert "dog" in fill(without_token(inserted, subject), subject)


@given(PLAIN, PLAIN)
def test_an_inserted_token_is_the_only_change(before: str, after: str) -> None:
    subject = Subject("qzqzq", "zebra")
    assert (
        insert_token(f"{before} zebra {after}", subject).replace("{token} ", "", 1).replace("{subject}, ", "", 1)
        == f"{before} zebra {after}"
    )


OWL = "great horned owl"


@pytest.mark.parametrize(
    ("token", "noun", "caption", "inserted", "of_the_class"),
    [
        ("owl", OWL, "a great horned owl at night", "a {token} great horned owl at night", None),
        ("great", OWL, "A Great Horned Owl", "A {token} Great Horned Owl", None),
        ("horned", OWL, "two great horned owl, one branch", "two {token} great horned owl, one branch", None),
        ("owl", OWL, "an owl great horned owl at night", None, "a great horned owl at night"),
        ("great", OWL, "a great great horned owl", None, "a great horned owl"),
        ("owl", OWL, "an owl at night", None, "an {class} at night"),
        ("owl", OWL, "a {subject} at night", None, "a {class} at night"),
        ("owl", OWL, "a photo of {token} {class}", None, "a photo of {class}"),
        ("owl", OWL, "an owlet and a great horned owl", "an owlet and a {token} great horned owl", None),
        ("dog", "dog", "a dog on grass", "a {token} dog on grass", None),
        ("a", "dog", "a dog", None, "dog"),
        ("toy", "toy dog", "a toy dog beside a toy", None, "a toy dog beside a"),
        ("Owl", OWL, "a GREAT HORNED OWL", "a {token} GREAT HORNED OWL", None),
    ],
)
def test_a_word_of_the_class_noun_is_not_the_token(
    token: str, noun: str, caption: str, inserted: str | None, of_the_class: str | None
) -> None:
    subject = Subject(token, noun)
    assert insert_token(caption, subject) == (inserted or caption)
    assert without_token(caption, subject) == (of_the_class or caption)
    assert names_subject(caption, subject) == (inserted is None)


@pytest.mark.parametrize("token", ["owl", "great", "horned", "a", "photo", "of"])
def test_the_class_prompt_is_made_of_placeholders(token: str) -> None:
    subject = Subject(token, OWL)
    assert fill(without_token(DEFAULT_TEMPLATE, subject), subject) == f"a photo of {OWL}"
    assert fill(without_token("a {subject} in the snow", subject), subject) == f"a {OWL} in the snow"
    assert class_prompt(OWL) == f"a photo of a {OWL}"
