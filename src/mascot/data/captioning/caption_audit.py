"""Find what is wrong with captions before training, each with its count and a remedy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mascot.data.captioning.caption_variants import TagSettings, first_variant, split_tags, varies
from mascot.data.captioning.file_name_captions import caption_of_name
from mascot.data.photo_audit import Kind, PhotoFinding
from mascot.data.photos import Photo
from mascot.data.prompt_templates import names_subject, one_line
from mascot.errors import list_some, printable
from mascot.protocols import Subject

FEWEST_CAPTIONS = 3
"""With fewer photos that have captions of their own, what they share may be chance."""
SHARE_OF_ALL = 0.9
"""Words in a larger share of the captions count as always written."""

_PLAIN_WORDS = frozenset(
    """
    a an the this that these those of in on at by to from with without and or is are was its it he she his her their
    my our your one some very photo photograph picture pic image img shot snapshot portrait closeup close up view
    number no there here as for into onto over under near beside behind front side back which who has have
    """.split()
)
"""Words that describe neither the subject nor its surroundings."""


@dataclass(frozen=True, slots=True)
class OwnCaption:
    """One caption of a photo's own, with the first option of each wildcard; nothing is filled."""

    photo: Photo
    text: str


def audit_captions(
    photos: Sequence[Photo],
    subject: Subject,
    *,
    templates: Sequence[str],
    token_given: bool,
    tags: TagSettings,
    insert_token: bool = False,
    from_names: bool = False,
) -> tuple[PhotoFinding, ...]:
    """List what training would suffer from, in the captions of one subject's photos.

    Args:
        photos: The photos with their captions.
        subject: The subject that they show.
        templates: The captions of photos that have none of their own.
        token_given: Whether the user named the token; a chosen one is in no caption.
        tags: What happens to the tags.
        insert_token: Whether the token is inserted where a caption does not name the subject.
        from_names: Whether the names of photos are captions.
    """
    given = tuple(one_line(template) for template in templates)
    own = [
        OwnCaption(photo, first_variant(caption))
        for photo in photos
        if photo.captions != given
        for caption in photo.captions
    ]
    return (
        *([] if insert_token else _nameless(own, subject, token_given=token_given)),
        *_alike(own),
        *_always_written(own, subject),
        *_droppable(own, subject, tags),
        *_unchanging_tags(photos, tags),
        *(_silent_names(photos) if from_names else []),
    )


def _warning(kind: Kind, message: str, remedy: str) -> PhotoFinding:
    return PhotoFinding(kind=kind, severity="warning", message=message, remedy=remedy)


def _nameless(own: Sequence[OwnCaption], subject: Subject, *, token_given: bool) -> Iterator[PhotoFinding]:
    """Find captions that do not name the subject, so that the token is not trained by them."""
    named: Callable[[str], bool] = (
        (lambda text: names_subject(text, subject))
        if token_given
        else (lambda text: bool(re.search(r"(?<!\{)\{(?:subject|token)\}", text)))
    )
    nameless = [caption for caption in own if not named(caption.text)]
    if not nameless:
        return
    token = f"the token {subject.token!r}" if token_given else "the token (one is chosen, as none is given)"
    count = "None" if len(nameless) == len(own) else f"{len(nameless)}"
    verb = "name" if count not in {"None", "1"} else "names"
    said = f"{count} of the {len(own)} captions {verb}" + (" neither" if count != "None" else " either")
    link = "nor" if count != "None" else "or"
    where = "" if count == "None" else f" ({list_some(dict.fromkeys(printable(one.photo.path) for one in nameless))})"
    remedy = "Write {subject} where a caption names it, or give --set dataset.insert_token=true"
    yield _warning(
        "no-subject",
        f"{said} {{subject}} {link} {token}{where}, so prompts will use a token that these do not train.",
        f"{remedy}{'' if token_given else ', or give the token of your captions by --token'}.",
    )


def _alike(own: Sequence[OwnCaption]) -> Iterator[PhotoFinding]:
    """Find captions that are the same for all photos, or differ only in numbers."""
    photos = {one.photo.path for one in own}
    texts = {one_line(re.sub(r"\d+", " ", one.text.casefold())).strip(" ,.") for one in own}
    if len(photos) < FEWEST_CAPTIONS or len(texts) > 1:
        return
    yield _warning(
        "same-captions",
        f"The captions of all {len(photos)} photos are alike: {own[0].text!r}; the token is trained together with all "
        "their words.",
        "Say in each what differs: place, pose, light. Or delete the captions, and the template is used.",
    )


def _always_written(own: Sequence[OwnCaption], subject: Subject) -> Iterator[PhotoFinding]:
    """Find what nearly every caption says: these words are trained to mean it, not the token."""
    if len({one.photo.path for one in own}) < FEWEST_CAPTIONS:
        return
    known = _PLAIN_WORDS | set(words_of(f"{subject.token} {subject.class_noun or ''}"))
    counts = Counter(word for one in own for word in set(words_of(one.text)))
    least = math.ceil(SHARE_OF_ALL * len(own))
    always = {word for word, count in counts.items() if count >= least and word not in known}
    if not always:
        return
    first = next(one.text for one in own if always & set(words_of(one.text)))
    phrases = [f"'{phrase}'" for phrase in phrases_of(first, always)]
    least = min(counts[word] for word in always)
    said = f"All {len(own)} captions say" if least == len(own) else f"At least {least} of the {len(own)} captions say"
    yield _warning(
        "always-written",
        f"{said} {list_some(phrases)}; what is always written is trained into these words, not into the token.",
        "Leave out what belongs to the subject itself, and describe what changes: place, pose, light.",
    )


def _droppable(own: Sequence[OwnCaption], subject: Subject, tags: TagSettings) -> Iterator[PhotoFinding]:
    """Find captions whose token may be left out with its tag."""
    if not tags.dropout:
        return
    at_risk = [
        one
        for one in own
        if names_subject(one.text, subject)
        and not any(names_subject(tag, subject) for tag in split_tags(one.text)[: tags.keep])
    ]
    if at_risk:
        names = list_some(dict.fromkeys(printable(one.photo.path) for one in at_risk))
        yield _warning(
            "token-dropped",
            f"Tag dropout may leave out the token in {len(at_risk)} of {len(own)} captions ({names}).",
            f"Write the subject among the first {tags.keep or 1} tags, with --set dataset.keep_tags={tags.keep or 1}.",
        )


def _unchanging_tags(photos: Sequence[Photo], tags: TagSettings) -> Iterator[PhotoFinding]:
    """Find settings of tags that change no caption of these photos."""
    captions = [caption for photo in photos for caption in photo.captions]
    most = max((len(split_tags(first_variant(caption))) for caption in captions), default=0)
    if tags.active and (not any(varies(one, tags) for one in captions) or most <= tags.keep):
        yield _warning(
            "no-tags",
            f"No caption has more than {max(most, 1)} tags, of which {tags.keep} are kept, so tags are neither "
            "shuffled nor left out.",
            "Separate tags by commas, or leave dataset.shuffle_tags and dataset.tag_dropout as they are by default.",
        )


def _silent_names(photos: Sequence[Photo]) -> Iterator[PhotoFinding]:
    """Find that no photo's name is a caption, though names shall be."""
    if not any(caption_of_name(photo.path) for photo in photos):
        yield _warning(
            "no-names",
            f"None of the {len(photos)} names of photos is a caption, such as {printable(photos[0].path)}.",
            "Rename the photos to what they show, or write captions beside them.",
        )


def words_of(text: str) -> list[str]:
    """List the words of a caption in lower case, without placeholders and numbers."""
    return re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", re.sub(r"\{[^{}]*\}", " , ", text.casefold()))


def phrases_of(text: str, always: set[str]) -> list[str]:
    """Join the words of a set that stand side by side in a text."""
    phrases: list[list[str]] = [[]]
    for part in re.split(r"[,.;:!?]|\{[^{}]*\}", text.casefold()):
        for word in words_of(part):
            if word in always:
                phrases[-1].append(word)
            elif phrases[-1]:
                phrases.append([])
        phrases.append([])
    return list(dict.fromkeys(" ".join(phrase) for phrase in phrases if phrase))
