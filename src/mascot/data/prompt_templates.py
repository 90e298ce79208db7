"""Fill and edit caption templates, which may hold `{subject}`, `{token}` and `{class}`.

Where several subjects are trained together, a template may also hold their names: `{rex}`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mascot.errors import UserError, suggest
from mascot.storage.strict_parsing import is_unicode

if TYPE_CHECKING:
    from mascot.protocols import Subject  # protocols import torch, which reading photos does not need

DEFAULT_TEMPLATE = "a photo of {token} {class}"
"""The caption of a photo that has none of its own (Ruiz et al. 2023, section 3.2)."""
COMMON_TOKEN = "sks"  # noqa: S105 - a word of prompts
"""The identifier token of most tutorials; stands in until a token is given or chosen."""
PLACEHOLDERS = ("subject", "token", "class")
"""The names that may stand between braces in a caption or a prompt."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ARTICLE = re.compile(r"\b([Aa])n? (?=\{([^{}]+)\})")
_SPOKEN_AS_CONSONANT = re.compile(r"(uni(?!n|m|d)|us[aeu]|eu|ewe|ewer|one\b|once|u(k|r|t)[aeiou])", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)", re.IGNORECASE)


def fill(template: str, subject: Subject) -> str:
    """Replace `{subject}`, `{token}`, `{class}` and names in a template; returns one line.

    `{{` and `}}` are literal braces. Without a class noun `{class}` is dropped with the space
    before it. An article directly before a placeholder is made to fit: `a {class}` gives `an owl`.

    Raises:
        UserError: there is another placeholder or a lone brace, a text is not UTF-8, or nothing is
            left of the template.
    """
    for text in (template, subject.words):
        if not is_unicode(text):
            raise UserError(f"{text!a} is not UTF-8; write it with that encoding.")
    words = words_of(subject)

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if match.group() in {"{{", "}}"}:
            return match.group()[0]
        if name is None:
            raise UserError(f"There is a lone {match.group()} in {template!r}; write it twice for a literal brace.")
        if name not in words and "|" in name:
            raise UserError(
                f"There is a wildcard, not a placeholder, in {template!r}: {match.group()}; only captions of training "
                "photos have wildcards, so write one of its words."
            )
        if name not in words:
            raise UserError(f"There is an unknown placeholder {{{name}}} in {template!r}{suggest(name, words)}")
        return words[name] or ""

    def article(match: re.Match[str]) -> str:
        word = words.get(match.group(2))
        return match.group() if word is None else f"{match.group(1)}{'n' if takes_an(word) else ''} "

    template = _ARTICLE.sub(article, template)
    reduced = template if subject.class_noun is not None else re.sub(r"\s+\{class\}(?!\})", "{class}", template)
    filled = one_line(_BRACES.sub(replacement, reduced))
    if not filled:
        raise UserError(f"The template {template!r} leaves an empty prompt; use {{subject}} or {{token}} in it.")
    return filled


def words_of(subject: Subject) -> dict[str, str | None]:
    """Return what each placeholder stands for; None leaves it out."""
    words = {"subject": subject.words, "token": subject.token, "class": subject.class_noun}
    return words | {one.name: one.words for one in subject.all if one.name is not None}


def expand(template: str, subject: Subject) -> list[str]:
    """Fill a prompt for every subject that it is about.

    With several subjects, a prompt with `{subject}`, `{token}` or `{class}` becomes one prompt for
    each of them. A prompt with names alone stays one prompt.

    Raises:
        UserError: `fill` would refuse the template.
    """
    if not placeholders(template) & set(PLACEHOLDERS):
        return [fill(template, subject)]
    return list(dict.fromkeys(fill(template, one) for one in subject.all))


def insert_token(caption: str, subject: Subject) -> str:
    """Insert `{token}` into a caption that does not name the subject yet; nothing is filled.

    A caption that names the subject (see `names_subject`) is returned unchanged; a word of the
    class noun is not the token, even if it is spelled alike. Otherwise
    `{token}` goes before the first class noun that is a whole word, or before `{class}`. A caption
    without either gets `{subject}, ` in front. `fill` makes an article before it fit: `an owl`
    becomes `a sks owl`.
    """
    if names_subject(caption, subject):
        return caption
    noun = "" if subject.class_noun is None else rf"|\{{class\}}|{_noun_pattern(subject)}"
    found = (match for match in re.finditer(r"\{\{|\}\}" + noun, caption) if match.group() not in {"{{", "}}"})
    first = next(found, None)
    if first is None:
        return f"{{subject}}, {caption}"
    return f"{caption[: first.start()]}{{token}} {caption[first.start() :]}"


def names_subject(caption: str, subject: Subject) -> bool:
    """Whether a caption holds `{subject}`, `{token}`, its name, or the token as a word of its own.

    A word inside the class noun is not the token: the token `owl` is not in `a great horned owl`.
    """
    if placeholders(caption) & {"subject", "token", subject.name}:
        return True
    found = re.finditer(rf"{_noun_pattern(subject)}|(?P<token>{_word_pattern(subject.token)})", caption)
    return any(match.group("token") for match in found)


def names_class(caption: str, subject: Subject) -> bool:
    """Whether a caption holds `{subject}`, `{class}`, or the class noun as whole words."""
    if subject.class_noun is None:
        return False
    return bool(placeholders(caption) & {"subject", "class"} or re.search(_noun_pattern(subject), caption))


def without_token(caption: str, subject: Subject) -> str:
    """Turn a caption of the subject into one of its class; nothing is filled.

    `{subject}` and `{token} {class}` become `{class}`. Elsewhere `{token}`, or the token itself, is
    dropped if the caption names the class too, and becomes `{class}` if not. An article before it
    is made to fit the word after it. A caption that names no token is returned unchanged.

    Raises:
        UserError: the subject has no class noun.
    """
    if subject.class_noun is None:
        raise UserError("a caption of the class needs a class noun; give one such as --class-noun dog.")
    for other in subject.others:
        caption = _with_noun_of(other, caption)
    if subject.name is not None:
        caption = caption.replace(f"{{{subject.name}}}", "{subject}")
    noun, has_noun = _noun_pattern(subject), names_class(caption, subject)

    def replacement(match: re.Match[str]) -> str:
        if match.group() == "{subject}":
            return "{class}"
        if match.group("token") is None:  # a literal brace, or the class noun with what is in it
            return match.group()
        article = match.group("article")
        if not has_noun:
            start, end = (place - match.start() for place in match.span("token"))
            return f"{match.group()[:start]}{{class}}{match.group()[end:]}"
        return f"{article}{'n' if takes_an(match.group('next')) else ''} " if article else ""

    word = rf"(?!{noun}){_word_pattern(subject.token)}"
    if placeholders(caption) & {"subject", "token"}:  # then a word like the token elsewhere is only a word
        word += rf"(?= {noun})"
    token = rf"(?:\b(?P<article>[Aa])n? )?(?P<token>\{{token\}}|{word}),? ?(?=(?P<next>\w*))"
    shortened = re.sub(rf"\{{\{{|\}}\}}|\{{subject\}}|{noun}|{token}", replacement, caption)
    return shortened if shortened == caption else shortened.strip(" ,")


def mention_subject(text: str, subject: Subject) -> str:
    """Make a caption of a description: the first class noun in it becomes `{subject}`.

    Of a compound noun the last word counts too: `an owl on a branch` names a great horned owl.
    Without the noun `{subject}, ` goes in front. Braces of the description are literal.
    """
    escaped = one_line(text).replace("{", "{{").replace("}", "}}")
    noun = one_line(subject.class_noun or "")
    for words in dict.fromkeys((noun, noun.rpartition(" ")[2])):
        match = re.search(_word_pattern(words), escaped) if words else None
        if match is not None:
            return f"{escaped[: match.start()]}{{subject}}{escaped[match.end() :]}"
    return f"{{subject}}, {escaped}"


def class_prompt(class_noun: str) -> str:
    """Return the prompt of class images: `a photo of a dog`, `a photo of an owl`.

    Raises:
        UserError: the noun is blank.
    """
    noun = one_line(class_noun)
    if not noun:
        raise UserError("The class noun is empty; give a noun such as dog.")
    return f"a photo of {'an' if takes_an(noun) else 'a'} {noun}"


def takes_an(word: str) -> bool:
    """Tell whether the article `an` goes before a word, because it begins with a spoken vowel."""
    vowel = word[:1].lower() in {"a", "e", "i", "o", "u"} and not _SPOKEN_AS_CONSONANT.match(word)
    return vowel or _SILENT_H.match(word) is not None


def one_line(text: str) -> str:
    """Replace line breaks and repeated blanks of a text by one space each."""
    return " ".join(text.split())


def placeholders(caption: str) -> set[str]:
    """Return the names between single braces; doubled braces are literal."""
    return {name for name in _BRACES.findall(caption) if name}


def _noun_pattern(subject: Subject) -> str:
    """Return a pattern that finds the class noun; without a class noun it finds nothing."""
    return "(?!)" if subject.class_noun is None else _word_pattern(one_line(subject.class_noun))


def _with_noun_of(other: Subject, caption: str) -> str:
    """Replace another subject's name or token in a caption by its class noun, if it has one."""
    if other.class_noun is None:
        return caption
    noun = one_line(other.class_noun)
    named = rf"(?<!\{{)\{{{re.escape(other.name or '')}\}}|{_word_pattern(other.token)}(?: {re.escape(noun)}(?!\w))?"

    def replacement(match: re.Match[str]) -> str:
        article = match.group(1)
        escaped = noun.replace("{", "{{").replace("}", "}}")
        return f"{article}{'n' if takes_an(noun) else ''} {escaped}" if article else escaped

    return re.sub(rf"(?:\b([Aa])n? )?(?:{named})", replacement, caption)


def _word_pattern(words: str) -> str:
    """Return a pattern that finds words standing by themselves, outside braces, in any case.

    Text encoders ignore case, so the pattern does too.
    """
    return rf"(?i:(?<![\w{{-]){re.escape(words)}(?![\w}}-]))"
