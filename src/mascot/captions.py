"""Each photo's caption, from a text file, `metadata.jsonl` or a template; and the three placeholders that prompts may hold."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from mascot.errors import UserError, suggest
from mascot.photos import Photo, PhotoSet, printable
from mascot.subject import Subject

DEFAULT_TEMPLATE = "a photo of {token} {class}"
"""The caption of a photo that has none of its own (Ruiz et al. 2023, section 3.2)."""

PLACEHOLDERS = ("subject", "token", "class")
"""What may stand between braces in a caption or a prompt."""

METADATA = "metadata.jsonl"
"""The captions of a folder, as the datasets library lays them out."""

_CAPTION_KEYS = ("text", "caption", "prompt")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPOKEN_AS_CONSONANT = re.compile(r"(uni(?!n|m|d)|us[aeu]|eu|ewe|ewer|one\b|once|u(k|r|t)[aeiou])", re.IGNORECASE)
_ARTICLE = re.compile(r"\b([Aa])n? (?=\{(subject|token|class)\})")
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)", re.IGNORECASE)


def fill(template: str, subject: Subject) -> str:
    """The template with `{subject}`, `{token}` and `{class}` replaced, in one line; `{{` and `}}` are literal braces.

    Without a class noun `{class}` vanishes with the blank before it. An article right before a placeholder is made to fit: `a {class}`
    gives `an owl`. Raises UserError for any other placeholder or a lone brace.
    """
    words = {"subject": subject.words, "token": subject.token, "class": subject.class_noun}

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if match.group() in {"{{", "}}"}:
            return match.group()[0]
        if name is None:
            raise UserError(f"There is a lone {match.group()} in {template!r}; write it twice for a literal brace.")
        if name not in words:
            raise UserError(f"There is an unknown placeholder {{{name}}} in {template!r}{suggest(name, PLACEHOLDERS)}")
        return words[name] or ""

    def article(match: re.Match[str]) -> str:
        word = words[match.group(2)]
        return match.group() if word is None else f"{match.group(1)}{'n' if sounds_open(word) else ''} "

    template = _ARTICLE.sub(article, template)
    bare = template if subject.class_noun is not None else re.sub(r"\s+\{class\}(?!\})", "{class}", template)
    filled = one_line(_BRACES.sub(replacement, bare))
    if not filled:
        raise UserError(f"The template {template!r} leaves an empty prompt; use {{subject}} or {{token}} in it.")
    return filled


def insert_token(caption: str, subject: Subject) -> str:
    """The caption with the token put into it, unless it names `{subject}`, `{token}` or the token's own word; nothing is filled yet.

    `{token}` goes before the first class noun that is a whole word, or before `{class}`; a caption without one is led by `{subject}, `.
    `fill` makes an article before it fit: `an owl` comes to `a sks owl`.
    """
    if _placeholders(caption) & {"subject", "token"} or re.search(_word(subject.token), caption):
        return caption
    noun = "" if subject.class_noun is None else rf"|\{{class\}}|{_word(one_line(subject.class_noun))}"
    found = (match for match in re.finditer(r"\{\{|\}\}" + noun, caption) if match.group() not in {"{{", "}}"})
    first = next(found, None)
    if first is None:
        return f"{{subject}}, {caption}"
    return f"{caption[: first.start()]}{{token}} {caption[first.start() :]}"


def without_token(caption: str, subject: Subject) -> str:
    """The same caption about any of the class: `{subject}` and `{token} {class}` become `{class}`; nothing is filled yet.

    `{token}`, or the token's own word, is left out where the class is named besides, and else becomes `{class}`; an article before it is
    made to fit the word after it. A caption that names no token comes back as it is. Raises UserError where no class noun is known.
    """
    if subject.class_noun is None:
        raise UserError("a caption of the class needs to know the class: give --class-noun dog (say).")
    named = _placeholders(caption) & {"subject", "class"} or re.search(_word(one_line(subject.class_noun)), caption)

    def replacement(match: re.Match[str]) -> str:
        if match.group() in {"{{", "}}"}:
            return match.group()
        if match.group() == "{subject}":
            return "{class}"
        if not named:
            return match.group().replace(match.group("token"), "{class}")
        article = match.group("article")
        return f"{article}{'n' if sounds_open(match.group('next')) else ''} " if article else ""

    token = rf"(?:\b(?P<article>[Aa])n? )?(?P<token>\{{token\}}|{_word(subject.token)}),? ?(?=(?P<next>\w*))"
    bare = re.sub(rf"\{{\{{|\}}\}}|\{{subject\}}|{token}", replacement, caption)
    return bare if bare == caption else bare.strip(" ,")


def _placeholders(caption: str) -> set[str]:
    """The names between braces, those of doubled braces left out."""
    return {name for name in _BRACES.findall(caption) if name}


def _word(words: str) -> str:
    """A pattern for words that stand by themselves, and between no braces; text encoders do not tell capitals apart."""
    return rf"(?i:(?<![\w{{-]){re.escape(words)}(?![\w}}-]))"


def one_line(text: str) -> str:
    """The text with line breaks and repeated blanks made one blank."""
    return " ".join(text.split())


def class_prompt(class_noun: str) -> str:
    """`a photo of a dog`, `a photo of an owl`: the prompt for class pictures. Raises UserError for a blank noun."""
    noun = one_line(class_noun)
    if not noun:
        raise UserError("The class noun is empty; give a noun such as dog.")
    return f"a photo of {'an' if sounds_open(noun) else 'a'} {noun}"


def sounds_open(word: str) -> bool:
    """Whether a word takes `an`: it begins with a spoken vowel."""
    vowel = word[:1].lower() in {"a", "e", "i", "o", "u"} and not _SPOKEN_AS_CONSONANT.match(word)
    return vowel or _SILENT_H.match(word) is not None


def caption_photos(photos: PhotoSet, templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> PhotoSet:
    """The same photos, each with its caption, or with all the templates; placeholders are not yet filled.

    `<stem>.txt` beside the photo wins, then the folder's `metadata.jsonl` (rows with `file_name` and `text`, `caption` or `prompt`),
    then the templates, which take turns. A caption that names neither `{subject}` nor `{token}` is kept as written.

    Raises UserError, with file and line, for text that is not UTF-8, an empty caption, a malformed row, a row about a file that does
    not exist, and a placeholder that `fill` would refuse.
    """
    if not templates:
        raise UserError("There is no caption template; give one such as 'a photo of {token} {class}'.")
    for template in templates:
        _check("The template", template)
    usual = tuple(one_line(template) for template in templates)
    folders = {photo.path.parent for photo in photos.photos}
    listed = {path: caption for folder in sorted(folders) for path, caption in _metadata(folder / METADATA).items()}
    captioned: list[Photo] = []
    for photo in photos.photos:
        own = _own(photo) or listed.get(_plain(photo.path))
        captioned.append(replace(photo, captions=(own,) if own else usual))
    return replace(photos, photos=tuple(captioned))


def _own(photo: Photo) -> str | None:
    """The caption in the text file of the photo's name."""
    file = photo.path.with_suffix(".txt")
    if not os.path.lexists(file):
        return None
    caption = one_line(_text(file))
    if not caption:
        raise UserError(f"{printable(file)}, line 1: the caption is empty; write one, or delete the file.")
    _check(printable(file), caption)
    return caption


def _metadata(file: Path) -> dict[Path, str]:
    """The captions of one folder, by path."""
    if not os.path.lexists(file):
        return {}
    captions: dict[Path, str] = {}
    for place, row in _rows(file):
        path = _plain(file.parent / _file_name(row, place, file.parent))
        if path in captions:
            raise UserError(f"{place}: {path.name} has a caption already; keep one row for each photo.")
        captions[path] = _caption(row, place)
    return captions


def _rows(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Each row, with the place that errors name."""
    for number, line in enumerate(_text(file).splitlines(), start=1):
        place = f"{printable(file)}, line {number}"
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: this is not JSON ({one_line(str(error))}); write one object a line.") from error
        if not isinstance(row, dict):
            raise UserError(f'{place}: write an object such as {{"file_name": "1.jpg", "text": "a photo of {{subject}}"}}.')
        yield place, cast("dict[str, object]", row)


def _file_name(row: dict[str, object], place: str, folder: Path) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{place}: there is no file_name; name the photo that the caption is for.")
    if not os.path.lexists(folder / name):
        close = get_close_matches(name, (path.name for path in folder.iterdir()), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "correct the name or delete the row."
        raise UserError(f"{place}: there is no file {name!r} in {folder}; {remedy}")
    return name


def _caption(row: dict[str, object], place: str) -> str:
    key = next((key for key in _CAPTION_KEYS if key in row), None)
    if key is None:
        raise UserError(f"{place}: there is no caption; give it under {', '.join(_CAPTION_KEYS[:-1])} or {_CAPTION_KEYS[-1]}.")
    text = row[key]
    caption = one_line(text) if isinstance(text, str) else ""
    if not caption:
        raise UserError(f"{place}: {key} is empty or not a text; write a caption, or delete the row.")
    _check(place, caption)
    return caption


def _check(place: str, caption: str) -> None:
    """Refuse a caption that cannot be filled while its place is still known."""
    try:
        fill(caption, Subject("token", "class"))
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _text(file: Path) -> str:
    try:
        written = file.read_bytes()
        return written.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{printable(file)} cannot be read ({error.strerror}); mend or delete it.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{printable(file)}, line {line}: this is not UTF-8; save the file with that encoding.") from error


def _plain(path: Path) -> Path:
    """The path without `.` and `..`, links kept: a row names the file as it lies in the folder."""
    return Path(os.path.normpath(path))
