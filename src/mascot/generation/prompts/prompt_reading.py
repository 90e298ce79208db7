"""Reading prompts as users type them: their conditioning, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mascot.diffusion.prompt_chunks import ReadsChunks
from mascot.errors import UserError, shorten
from mascot.generation.prompts.chunk_plan import pad_plan, plan_chunks
from mascot.generation.prompts.prompt_weights import WeightedPrompt, as_letters, parse_prompt
from mascot.generation.prompts.truncation import describe_truncations
from mascot.models.families.registry import reads_chunks
from mascot.progress import OnEvent, PromptRead, PromptTruncated
from mascot.protocols import Conditioning, Family, Framing, Stage

EMPHASIS = "Original"
"""A1111's name of how weights act, which it reads back from an image's settings."""
NAMED = 12
"""Most weighted phrases that a note lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a prompt and its negative prompt are read for one image."""

    chunks: int = 1
    """Chunks of each, the shorter one padded with empty chunks."""
    weighted: bool = False
    """Whether one of them has weights."""
    changed: bool = False
    """Whether one of them is read as another text than was typed."""

    @property
    def facts(self) -> dict[str, object]:
        """What an image's settings say of it, beside the prompts as they were typed."""
        emphasis: dict[str, object] = {"Emphasis": EMPHASIS} if self.weighted else {}
        return emphasis | ({"Prompt chunks": self.chunks} if self.chunks > 1 else {})

    @property
    def key(self) -> tuple[str, ...]:
        """What cache keys hold of it: nothing where the prompts are read as letters, at once."""
        return ("typed",) if self.chunks > 1 or self.weighted or self.changed else ()


class PromptReader:
    """Reads prompts for a family: parses and encodes them, and says what it does.

    Without `typed`, brackets are letters and the ends of long prompts are left out, as in training.
    """

    def __init__(self, family: Family, *, typed: bool = True) -> None:
        self.family, self.typed = family, typed
        self._announced = set[str]()

    def parse(self, prompt: str) -> WeightedPrompt:
        """Parse a prompt.

        Raises:
            UserError: see `parse_prompt` and `check_readable`.
        """
        if not self.typed:
            return as_letters(prompt)
        read = parse_prompt(prompt)
        chunked = isinstance(self.family.stages[0], ReadsChunks)
        check_readable(read, self.family.name, reads_chunks=chunked)
        return read

    def count(self, stage: Stage, prompt: str) -> int:
        """Count the chunks in which a stage reads a prompt."""
        read = self.parse(prompt)
        if not isinstance(stage, ReadsChunks) or not self.typed:
            return 1
        return max(map(len, plan_chunks(stage, read).values()))

    def reading(self, prompt: str, negative: str) -> Reading:
        """Tell how a prompt and its negative prompt are read for one image.

        Raises:
            UserError: see `parse`.
        """
        read, stage = [self.parse(prompt), self.parse(negative)], self.family.stages[0]
        return Reading(
            chunks=max(self.count(stage, prompt), self.count(stage, negative)),
            weighted=any(one.weighted for one in read),
            changed=[one.text for one in read] != [prompt, negative],
        )

    def condition(
        self, stage: Stage, prompts: Iterable[str], negative: str, framing: Framing
    ) -> tuple[dict[str, Conditioning], dict[str, Conditioning]]:
        """Compute a stage's conditioning of each prompt, and of the negative prompt beside it.

        The shorter one of both has empty chunks at its end.

        Raises:
            UserError: see `parse`.
        """
        least, negatives = self.count(stage, negative), dict[int, Conditioning]()
        positive: dict[str, Conditioning] = {}
        beside: dict[str, Conditioning] = {}
        for prompt in dict.fromkeys(prompts):
            count = max(least, self.count(stage, prompt))
            positive[prompt] = encode(stage, self.parse(prompt), framing, count)
            if count not in negatives:
                negatives[count] = encode(stage, self.parse(negative), framing, count)
            beside[prompt] = negatives[count]
        return positive, beside

    def report(self, prompts: Iterable[str], on_event: OnEvent) -> None:
        """Send an event for each prompt with weights, in several chunks, or not read to its end.

        No prompt is reported twice. Events: `PromptTruncated`, `PromptRead`.

        Raises:
            UserError: see `parse`.
        """
        stage = self.family.stages[0]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._announced]
        self._announced.update(new)
        truncated = describe_truncations(stage, new, typed=self.typed)
        for prompt in new:
            said = describe_reading(prompt, self.parse(prompt), self.count(stage, prompt))
            if said is not None:
                on_event(PromptRead(message=said))
            if prompt in truncated:
                on_event(PromptTruncated(message=truncated[prompt]))


def check_prompts(prompts: Iterable[str], base: str | None) -> None:
    """Refuse prompts that cannot be read, before a base is loaded; without one, wrong syntax alone.

    Raises:
        UserError: see `parse_prompt` and `check_readable`.
    """
    for read in map(parse_prompt, prompts):
        if base is not None and (read.weighted or len(read.parts) > 1):
            check_readable(read, base, reads_chunks=reads_chunks(base))


def check_readable(prompt: WeightedPrompt, base: str, *, reads_chunks: bool) -> None:
    """Refuse weights and BREAK where a base's text encoders cannot use them.

    Raises:
        UserError: the prompt has either, and the base reads no chunks.
    """
    if reads_chunks:
        return
    if prompt.weighted:
        raise UserError(
            f"the prompt {shorten(prompt.text)!r} weighs {shorten(prompt.weighted[0].text)!r}, and {base} reads no "
            r"weights; leave the brackets out, or write \( and \) where they are letters."
        )
    if len(prompt.parts) > 1:
        raise UserError(
            f"the prompt {shorten(prompt.text)!r} has a BREAK, and {base} reads no chunks; leave it out, or write it "
            "small where it is a word."
        )


def encode(stage: Stage, prompt: WeightedPrompt, framing: Framing, count: int) -> Conditioning:
    """Compute a stage's conditioning of one prompt, a batch of one, in `count` chunks.

    Without weights and in one chunk this is `Stage.condition` of the text.
    """
    if isinstance(stage, ReadsChunks) and (count > 1 or prompt.weighted):
        return stage.condition_chunks(prompt.text, pad_plan(plan_chunks(stage, prompt), count), framing)
    return stage.condition([prompt.text], [framing])


def describe_reading(prompt: str, read: WeightedPrompt, count: int) -> str | None:
    """Say in one line which weights are read and in how many chunks; None where neither is."""
    said = [f"in {count} chunks"] * (count > 1)
    if read.weighted:
        listed = ", ".join(f"{shorten(one.text.strip(), 40)!r} {one.weight:g}" for one in read.weighted[:NAMED])
        more = f" and {len(read.weighted) - NAMED} more" if len(read.weighted) > NAMED else ""
        said.append(f"with the weights {listed}{more}")
    return f"{shorten(prompt, 40)!r} is read {', '.join(said)}" if said else None
