"""TODO data.prompt_templates."""

from __future__ import annotations

import re

from mascot.errors import UserError, suggest
from mascot.protocols import Subject

DEFAULT_TEMPLATE = "a photo of {token} {class}"
"""The caption of a photo that has none of its own (Ruiz et al. 2023, section 3.2)."""


PLACEHOLDERS = ("subject", "token", "class")
"""What may stand between braces in a caption or a prompt."""


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
