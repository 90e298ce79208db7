"""Which checkpoint and which knobs: our rule beside fixed steps, DVAR and the oracle, on held-out subjects of the embedded base.

`python benchmarks/selection.py --keep runs/selection`; add `--subjects boar --steps 20
--fixed 10 --marks 2 --images 1 --prompts 2 --budget 10` to see in a minute that it works. Each subject is trained once, at a constant
rate, so that every checkpoint is what a run of so many steps would have ended in. Rules see the validation prompts (ours) or the loss of
a fixed batch (DVAR); what their choice is worth is then measured on the 25 prompts of the report, which the oracle alone may see. Most
of the pictures are drawn for the oracle: about 27 times the report's. Stop it at any moment: the same command goes on.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # the benchmarks stand in a checkout and are never installed

from benchmarks.paper import SUBJECTS
from benchmarks.rules import LOWER, RULES, STUDY, Answer, Worth, best_of, dvar, even_marks, kept_from
from mascot.adapters.adapter_file import Adapter
from mascot.data.prompt_templates import fill
from mascot.diffusion.loss import training_loss
from mascot.errors import UserError
from mascot.evaluation.bootstrap import bootstrap, paired
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.metrics.memorization import real_nearest
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult, score
from mascot.evaluation.selection.knob_search import knob_grid, search_knobs
from mascot.evaluation.selection.validation import ROUNDS
from mascot.evaluation.selection.validation_set import SEED, noise_image
from mascot.experiments.subject_collection import spread
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompt_sets import STARTER, STARTER_VALIDATION
from mascot.generation.sample_cache import SampleCache, weights_name
from mascot.models import starter
from mascot.models.starter import HeldOutSubject
from mascot.protocols import Family, Subject
from mascot.recipe.recipe import Recipe
from mascot.runs.export import export_adapter
from mascot.runs.inputs import load_base, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin, train_steps
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run

FIXED_BATCHES = 2
"""Micro-batches whose loss is watched: 8 photos at the preset's batch, as many as the paper's evaluation batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """One subject's folder, recipe and settings."""

    held: HeldOutSubject
    recipe: Recipe
    folder: Path
    marks: tuple[int, ...]
    every: int
    """Steps between two evaluations of the fixed batch."""

    def adapter(self, step: int) -> Path:
        """The adapter as it was at a step."""
        return self.folder / "adapters" / f"step{step:06d}.safetensors"

    @property
    def losses(self) -> Path:
        """The fixed batch's losses: one JSON line an evaluation."""
        return self.folder / "fixed_losses.jsonl"

    def read_losses(self, until: int) -> dict[int, float]:
        """The losses so far by step, without a last line that was cut off."""
        rows: dict[int, float] = {}
        for line in self.losses.read_text(encoding="utf-8").splitlines() if self.losses.exists() else ():
            try:
                step, loss = json.loads(line)
            except ValueError:
                break
            if step <= until:
                rows[step] = loss
        return rows

    def write_losses(self, rows: Mapping[int, float]) -> None:
        """Write them anew, whole or not at all."""
        with atomic_write(self.losses) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows.items())), encoding="utf-8")

    def train(self) -> None:
        """Train to the last mark, keeping an adapter at each and the losses between; what was done before is not done again.

        Raises:
            UserError: the folder was made with other settings.
        """
        run = Run(self.folder / "run")
        if run.recipe.exists() and Recipe.read(run.recipe) != self.recipe:
            raise UserError(
                f"{self.folder} was made with other settings; give another --keep, or the settings of then."
            )
        if all(self.adapter(mark).exists() for mark in self.marks):
            return
        run.write_text(run.recipe, self.recipe.to_toml())
        with run.locked():
            job = TrainingRun(
                recipe=self.recipe, files=run, photos=read_subject(self.recipe), family=load_base(self.recipe)
            )
            begin(job)
            self.write_losses(self.read_losses(job.loop.done))
            self.note(job)  # it may have been stopped between a checkpoint and its note
            with closing(train_steps(job)) as steps:
                for _ in steps:
                    self.note(job)

    def note(self, job: TrainingRun) -> None:
        """Keep what belongs to the step that training has come to."""
        step = job.loop.done
        if step % self.every == 0 and step not in self.read_losses(step):
            with self.losses.open("a", encoding="utf-8") as log:
                log.write(json.dumps((step, fixed_loss(job))) + "\n")
        if step in self.marks and not self.adapter(step).exists():
            with job.loop.generating():
                export_adapter(job).write(self.adapter(step))


def fixed_batch_loss(job: TrainingRun, batch: Batch) -> tuple[Tensor, Tensor]:
    """The training loss of one micro-batch, as the loop computes it."""
    loop = job.loop
    return training_loss(
        job.stage,
        batch,
        loop.condition,
        loop.attached.base_only,
        min_snr=loop.settings.min_snr,
        offset_noise=loop.settings.offset_noise,
    )


@torch.no_grad()
def fixed_loss(job: TrainingRun) -> float:
    """The subject's mean squared error on the same pictures, captions, noise and levels whenever it is asked for."""
    errors: list[float] = []
    for number in range(min(FIXED_BATCHES, job.recipe.training.steps)):
        for batch in job.batches(number):
            with job.accelerator.autocast():
                _, error_B = fixed_batch_loss(job, batch)
            errors += error_B[: batch.subject_count].tolist()
    return statistics.fmean(errors)


@dataclass(kw_only=True)
class Easel:
    """One base that draws with one adapter at a time; pictures and embeddings are kept."""

    family: Family
    sample_cache: SampleCache
    encoders: EncoderPair
    generator: Generator = field(init=False)
    applied: Path | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begin with the untouched base."""
        self.generator = Generator(self.family)

    def wear(self, adapter: Path | None) -> None:
        """Put another adapter on, or none."""
        if adapter != self.applied:
            self.generator.remove_adapter()
            self.generator = Generator(self.family, None if adapter is None else Adapter.read(adapter))
            self.applied = adapter

    def generate(self, adapter: Path | None, requests: Sequence[ImageRequest], knobs: Knobs) -> tuple[Tensor, Tensor]:
        """Draw what is not kept yet; returns the pictures' embeddings for likeness and for the prompts."""
        self.wear(adapter)
        files = self.sample_cache.generate(self.generator, requests, knobs, weights_name(self.family, adapter))
        return self.sample_cache.embed(self.encoders.identity, files), self.sample_cache.embed(
            self.encoders.clip, files
        )


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Prompts that checkpoints of one subject are measured on: all of them once, then again with other seeds."""

    easel: Easel
    sitting: Sitting
    prompts: tuple[str, ...]
    rounds: int
    seed: int

    @cached_property
    def plain(self) -> Subject:
        """The class alone: what the untouched base is asked for, and what the encoders read."""
        return Subject(token=self.sitting.held.class_noun)

    @cached_property
    def photos(self) -> Tensor:
        """The photos, embedded."""
        return self.easel.sample_cache.embed(self.easel.encoders.identity, self.sitting.held.photos)

    @cached_property
    def words(self) -> Tensor:
        """Each picture's prompt, embedded."""
        embedded = self.easel.encoders.clip.embed_prompts([fill(prompt, self.plain) for prompt in self.prompts])
        return embedded.repeat(self.rounds, 1)

    @property
    def count(self) -> int:
        """Pictures of the whole exam."""
        return len(self.prompts) * self.rounds

    def requests(self, subject: Subject, count: int) -> list[ImageRequest]:
        """The first so many pictures."""
        asked = [(prompt, self.seed + turn) for turn in range(self.rounds) for prompt in self.prompts]
        return [ImageRequest(fill(prompt, subject), seed) for prompt, seed in asked[:count]]

    def measure(self, answer: Answer, count: int | None = None) -> ValidationResult:
        """Draw the first so many pictures, or all, and measure them."""
        count = count or self.count
        adapter, requests = self.sitting.adapter(answer.step), self.requests(self.sitting.recipe.subject, count)
        likeness_BD, prompt_BD = self.easel.generate(adapter, requests, answer.knobs)
        return ValidationResult(
            likeness=similarity(likeness_BD, self.photos),
            prompt=prompt_fidelity(prompt_BD, self.words[:count]),
            nearest=float((likeness_BD @ self.photos.T).amax(dim=1).mean()),
        )

    @cached_property
    def frame(self) -> ReferenceScores:
        """Place the untouched base and the photos, as training does."""
        likeness_BD, prompt_BD = self.easel.generate(
            None, self.requests(self.plain, self.count), self.sitting.recipe.knobs
        )
        nothing_BD = self.easel.sample_cache.embed_images(
            self.easel.encoders.clip, [noise_image(number) for number in range(self.count)]
        )
        return ReferenceScores(
            base_likeness=similarity(likeness_BD, self.photos),
            real_likeness=real_similarity(self.photos),
            base_prompt=prompt_fidelity(prompt_BD, self.words),
            floor_prompt=prompt_fidelity(nothing_BD, self.words),
            real_nearest=real_nearest(self.photos),
        )

    def worth(self, answer: Answer) -> Worth:
        """What an answer comes to here."""
        measured = self.measure(answer)
        return Worth(answer=answer, measured=measured, score=score(measured, self.frame))


def our_answers(exam: Exam, patience: int, budget: int) -> tuple[Answer, Answer, str]:
    """Tell the checkpoints in order until training has stopped paying, then search the knobs; the first answer has the usual knobs."""
    usual = exam.easel.generator.with_defaults(exam.sitting.recipe.knobs)
    chooser = CheckpointSelector(references=exam.frame, patience=patience)
    for mark in exam.sitting.marks:
        chooser.add(mark, exam.measure(Answer(step=mark, knobs=usual), len(exam.prompts)))
        if chooser.should_stop:
            break
    assert chooser.best is not None, "there is a mark"
    step = chooser.best.step
    found = search_knobs(
        lambda knobs, count: exam.measure(Answer(step=step, knobs=knobs), count), exam.frame, knob_grid(usual),
        budget=budget, first=max(2, len(exam.prompts) // 2), last=exam.count,
    )  # fmt: skip
    why = f"{chooser.reason} Knobs: {len(found.trials)} settings with {found.generated} pictures."
    return Answer(step=step, knobs=usual), Answer(step=step, knobs=found.knobs), why


def answers_by_rule(
    validation: Exam, *, fixed: int, window: int, threshold: float, patience: int, budget: int
) -> tuple[list[Answer], str]:
    """Let every rule but the oracle decide, in the order of RULES; also says why ours decided so."""
    sitting = validation.sitting
    usual = validation.easel.generator.with_defaults(sitting.recipe.knobs)
    losses = sitting.read_losses(sitting.marks[-1])
    place = dvar(
        [loss for _, loss in sorted(losses.items())], window=max(2, window // sitting.every), threshold=threshold
    )
    stopped = None if place is None else sorted(losses)[place]
    fixed_step = kept_from(fixed, sitting.marks)
    alone, ours, why = our_answers(validation, patience, budget)
    answers = [
        Answer(step=fixed_step, knobs=usual.model_copy(update=dict(STUDY))),
        Answer(step=fixed_step, knobs=usual),
        Answer(step=fixed_step, knobs=usual.model_copy(update={"guidance": LOWER})),
        Answer(step=kept_from(stopped, sitting.marks), knobs=usual),
        alone,
        ours,
    ]
    where = "never" if stopped is None else f"at step {stopped}"
    return answers, f"DVAR stopped {where}; ours: {why}"


def compare(validation: Exam, report: Exam, answers: Sequence[Answer]) -> dict[str, Worth]:
    """Measure every rule's answer on the report's prompts, and let the oracle see them all.

    The oracle chooses among all checkpoints with the usual knobs, then among the whole grid of knobs on the best of them, and among all
    that the rules chose: no rule can be better.
    """
    usual = validation.easel.generator.with_defaults(validation.sitting.recipe.knobs)
    worths = [report.worth(answer) for answer in answers]
    alone = best_of([report.worth(Answer(step=mark, knobs=usual)) for mark in report.sitting.marks])
    grid = [report.worth(Answer(step=alone.answer.step, knobs=knobs)) for knobs in knob_grid(usual)]
    return dict(zip(RULES, [*worths, alone, best_of([alone, *grid, *worths])], strict=True))


def show(name: str, found: Mapping[str, Worth]) -> None:
    """Print one subject's rows."""
    for rule, worth in found.items():
        knobs, measured = worth.answer.knobs, worth.measured
        turned = f"{knobs.guidance:g} / {knobs.unet_scale:g} / {knobs.text_scale:g}"
        numbers = (
            f"{worth.score.total:.3f} | {measured.likeness:.3f} | {measured.prompt:.3f} | {worth.score.copying:.3f}"
        )
        print(f"| {name} | {rule} | {worth.answer.step} | {turned} | {numbers} |", flush=True)


def show_means(rows: Sequence[Mapping[str, Worth]]) -> None:
    """Print each rule's mean over subjects and what ours has over it, with their bootstrap intervals."""
    print("\n| rule | score on the report's prompts | ours minus this, by subject |\n|---|---|---|")
    totals = {rule: [row[rule].score.total for row in rows] for rule in RULES}
    for rule, values in totals.items():
        mean, gap = bootstrap(values, seed=0), paired(totals["ours"], values, seed=0)
        assert mean is not None, "there is a subject"
        assert gap is not None, "there is a subject"
        print(f"| {rule} | {mean.describe()} | {'' if rule == 'ours' else gap.describe()} |")


def seat(held: HeldOutSubject, keep: Path, marks: tuple[int, ...], every: int) -> Sitting:
    """A subject with the preset's recipe at a constant rate, so that no checkpoint depends on where training ends."""
    settings = [f"training.steps={marks[-1]}", f"training.checkpoint_every={max(1, marks[-1] // 8)}"]
    settings += ["training.lr_schedule=constant", "previews.every=0"]
    settings += ["knobs.guidance=5", "token=sks"]  # named, so that the tables stay what they are whatever becomes usual
    recipe = Recipe.preset(
        overrides=settings, photos=tuple(str(photo) for photo in held.photos), class_noun=held.class_noun
    )
    return Sitting(held=held, recipe=recipe, folder=keep / held.name, marks=marks, every=every)


def main(  # noqa: PLR0917 - the command's options
    keep: Annotated[Path, typer.Option(help="Everything is kept here; the same command goes on from it.")],
    subjects: Annotated[str, typer.Option(help="Held-out subjects, with commas.")] = ",".join(SUBJECTS),
    steps: Annotated[int, typer.Option(min=1, help="Steps that are trained.")] = 800,
    marks: Annotated[int, typer.Option(min=1, help="Checkpoints, evenly.")] = 8,
    fixed: Annotated[int, typer.Option(min=1, help="The fixed number of steps.")] = 500,
    images: Annotated[int, typer.Option(min=1, help="Pictures of each prompt of the report.")] = 4,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts of either list at most.")] = 25,
    budget: Annotated[int, typer.Option(min=10, help="Pictures that the search of the knobs may draw.")] = 300,
    patience: Annotated[int, typer.Option(min=1, help="Ours: checkpoints in a row without a better one.")] = 3,
    window: Annotated[int, typer.Option(min=2, help="DVAR: steps; its authors' code has 200.")] = 200,
    threshold: Annotated[float, typer.Option(help="DVAR: share of the variance; its authors' code has 0.15.")] = 0.15,
    every: Annotated[int, typer.Option(min=1, help="DVAR: steps between two evaluations of the fixed batch.")] = 5,
) -> None:
    """Train each subject once, let each rule choose, and print what the choices are worth on the 25 prompts of the report."""
    known, kept = starter.subjects(), even_marks(steps, marks, fixed)
    if unknown := [name for name in subjects.split(",") if name not in known]:
        raise typer.BadParameter(f"there is no subject {unknown[0]}; choose among {', '.join(known)}.")
    encoders, rows = load_encoders("starter"), list[dict[str, Worth]]()
    print("\n".join(f"- {line}" for line in encoders.describe().values()))
    print(
        f"- kept steps {', '.join(map(str, kept))}; pictures of each of the report's prompts: {images}; prompts at most: {prompts}\n"
    )
    print(
        "| subject | rule | step | guidance / UNet / text | score | likeness | CLIP-T | copying |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    notes: list[str] = []
    for name in subjects.split(","):
        sitting = seat(known[name], keep, kept, every)
        sitting.train()
        easel = Easel(
            family=load_base(sitting.recipe), sample_cache=SampleCache(keep / name / "gallery"), encoders=encoders
        )
        lists = [spread(suite.for_subject(live=sitting.held.live), prompts) for suite in (STARTER_VALIDATION, STARTER)]
        validation = Exam(easel=easel, sitting=sitting, prompts=lists[0], rounds=ROUNDS, seed=SEED)
        report = Exam(easel=easel, sitting=sitting, prompts=lists[1], rounds=images, seed=0)
        answers, why = answers_by_rule(
            validation, fixed=fixed, window=window, threshold=threshold, patience=patience, budget=budget
        )
        rows.append(compare(validation, report, answers))
        notes.append(f"- {name}: {why}")
        show(name, rows[-1])
    show_means(rows)
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    typer.run(main)
