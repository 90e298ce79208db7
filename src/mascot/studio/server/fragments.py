"""The live parts of the page as HTML: photos with their audit, jobs with their curves, the library.

The page asks for them again and again, so what many visitors see is made once and kept a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mascot.api.library.changes import list_trash
from mascot.api.library.curves import looks_of, losses_of
from mascot.api.library.lineage import trace
from mascot.api.library.listing import RunSummary
from mascot.api.library.photo_desk import DeskPhoto, PhotoDesk, facts_by_number, with_own_names
from mascot.data.photo_audit import MINIMUM_PHOTOS, MINIMUM_SHARPNESS, Audit, PhotoFacts
from mascot.errors import UserError
from mascot.methods.registry import DEFAULT
from mascot.recipe.recipe import preset_values
from mascot.storage.event_log import read_log
from mascot.storage.run_folder import Run
from mascot.studio.charts import looks_chart, loss_chart
from mascot.studio.jobs.job import Job
from mascot.studio.jobs.job_progress import Progress, progress_of
from mascot.studio.markup import button, chip, definition, empty, image_tag, part, text
from mascot.studio.words import Words
from mascot.studio.workshop import Workshop

MOST_JOBS: Final = 12
"""Jobs that the page lists; older ones have their runs in the library."""
MOST_LOOKS: Final = 5
"""Columns of previews."""


def photos_part(desk: PhotoDesk, words: Words) -> str:
    """Show a desk's photos, what the audit says of each, and how ready they are."""
    listed = desk.read()
    if not listed.entries:
        return empty(words("photos.empty"))
    audit = desk.audit(resolution_of_starter())
    facts = facts_by_number(audit)
    alike = {int(path.stem) for pair in (audit.pairs if audit else ()) for path in (pair.first, pair.second)}
    cards = "".join(photo_card(desk, one, facts.get(one.number), one.number in alike, words) for one in listed.entries)
    masks = sum(one.masked for one in listed.entries)
    said = f'<p class="said">{text(words("photos.masks", count=masks))}</p>' if masks else ""
    return f'{readiness(desk, audit, words)}{said}<ul class="photos">{cards}</ul>'


def resolution_of_starter() -> int:
    """Return the side, in pixels, that the embedded base is trained at."""
    dataset = preset_values("starter", DEFAULT).get("dataset", {})
    return int(dataset.get("resolution", 512))


def photo_card(desk: PhotoDesk, entry: DeskPhoto, facts: PhotoFacts | None, alike: bool, words: Words) -> str:  # noqa: FBT001
    """Show one photo."""
    number, path = entry.number, desk.photo(entry.number)
    version = f"{path.stat().st_mtime_ns:x}" if path.exists() else "0"
    chips = list[str]()
    if facts is not None:
        chips.append(chip(f"{facts.size[1]}x{facts.size[0]}"))
        chips += [chip(words("photos.blurred"), "warn")] if facts.sharpness < MINIMUM_SHARPNESS else []
        chips += [chip(words("photos.small"), "warn")] if facts.upscaled else []
        cropped = words("photos.loses", share=f"{facts.cropped:.0%}")
        chips += [chip(cropped)] if facts.cropped > 0.01 else []
    chips += [chip(words("photos.alike"), "warn")] if alike else []
    chips += [chip(words("photos.cropped"), "good")] if entry.cropped else []
    chips += [chip(words("photos.masked"), "good")] if entry.masked else []
    edit = f'data-edit="{number}" data-version="{version}"'
    image = image_tag(f"{part('photo', number)}?v={version}", entry.name)
    return (
        f'<li class="photo" data-photo="{number}"><button type="button" class="pick" {edit} '
        f'aria-label="{text(words("photos.edit_one", name=entry.name))}">{image}</button>'
        f'<span class="name" title="{text(entry.name)}">{text(entry.name)}</span>'
        f'<span class="chips">{"".join(chips)}</span>'
        f'<textarea rows="2" maxlength="1000" data-caption="{number}" aria-label="'
        f'{text(words("photos.caption_of", name=entry.name))}" placeholder="{text(words("photos.caption"))}">'
        f"{text(entry.caption)}</textarea>"
        f'<span class="row"><button type="button" class="act" {edit}>{text(words("photos.edit"))}</button>'
        f"{button(words('photos.out'), part('photos', number, 'remove'), kind='quiet')}</span></li>"
    )


def readiness(desk: PhotoDesk, audit: Audit | None, words: Words) -> str:
    """Say how ready the photos are, and each finding with what to do."""
    count = len(desk.read().entries)
    findings = list(audit.findings) if audit else []
    warnings = [one for one in findings if one.severity == "warning"]
    state = "photos.few" if count < MINIMUM_PHOTOS else "photos.mend" if warnings else "photos.ready"
    said = words(state, count=count, warnings=len(warnings), least=MINIMUM_PHOTOS)
    items = "".join(
        f'<li class="{one.severity}" lang="en"><strong>{text(with_own_names(desk, one.message))}</strong> '
        f"{text(one.remedy)}</li>"
        for one in findings
    )
    listed = f'<ul class="findings">{items}</ul>' if items else ""
    kind = "good" if state == "photos.ready" else "warn"
    return f'<div class="readiness {kind}" role="status"><p>{text(said)}</p>{listed}</div>'


def jobs_part(shop: Workshop, words: Words) -> str:
    """Show the jobs, those that run first, then those that wait, then the newest."""
    order = {"running": 0, "stopping": 0, "queued": 1}
    jobs = sorted(shop.jobs.jobs(), key=lambda job: (order.get(job.state, 2), -job.created))
    if not jobs:
        return empty(words("jobs.empty"))
    return "".join(job_card(shop, job, words) for job in jobs[:MOST_JOBS])


def job_card(shop: Workshop, job: Job, words: Words) -> str:
    """Show one job: how far it is, its curves and previews, and what can be done with it."""
    open_ = not job.ended or job.state == "failed"
    progress = progress_of(read_log(shop.jobs.files(job.id).events), job)
    detail = job_detail(Run(Path(job.run)), progress, words) if job.run and job.state != "queued" else ""
    said = progress_text(progress, words) if not job.ended else job.sentence
    line = f'<p class="said">{text(said)}</p>' if said else ""
    folded = (
        f"<details{' open' if open_ or job.state == 'stopped' else ''}><summary>{text(words('jobs.curves'))}</summary>"
    )
    return (
        f'<article class="job {job.state}" id="job-{text(job.id)}"><header><h3>{text(job.title)}</h3>'
        f"{chip(words(f'state.{job.state}'), job.state)}</header>"
        f"{progress_bar(progress, words) if not job.ended else ''}{line}"
        f"{folded + detail + '</details>' if detail else ''}"
        f'<div class="row">{job_buttons(job, words)}</div></article>'
    )


def progress_text(progress: Progress, words: Words) -> str:
    """Say in one line how far a job is."""
    parts = [words(f"part.{progress.part}")]
    if progress.part == "training" and progress.steps:
        parts.append(words("jobs.of", step=progress.step, steps=progress.steps))
        parts += [words("jobs.loss_now", loss=f"{progress.loss:.3f}")] if progress.loss is not None else []
        parts += [words("jobs.left", time=duration(progress.left, words))] if progress.left is not None else []
    return " · ".join(parts)


def duration(seconds: float | None, words: Words) -> str:
    """Write a time as people say it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return words("time.seconds", count=max(1, round(seconds)))
    if seconds < 5400:
        return words("time.minutes", count=round(seconds / 60))
    return words("time.hours", count=f"{seconds / 3600:.1f}")


def progress_bar(progress: Progress, words: Words) -> str:
    """Draw how far a job is; without a number it only says that it works."""
    share = progress.share
    value = "" if share is None else f' value="{share:.3f}"'
    return f'<progress max="1"{value} aria-label="{text(words("jobs.progress"))}"></progress>'


def job_buttons(job: Job, words: Words) -> str:
    """Write what can be done with a job."""
    place = ("jobs", job.id)
    if job.state in {"running", "queued"}:
        return button(words("jobs.stop"), part(*place, "stop"), kind="strong")
    again = button(words("jobs.resume"), part(*place, "resume"), kind="strong")
    away = button(words("jobs.forget"), part(*place, "forget"), kind="quiet")
    return "" if job.state == "stopping" else (again if job.state in {"stopped", "failed"} else "") + away


def job_detail(run: Run, progress: Progress, words: Words) -> str:
    """Draw the curves of a run, and its previews by step."""
    losses = losses_of(run, progress.events)
    parts = {name: words(f"jobs.{name}") for name in ("likeness", "prompt", "copying")}
    charts = loss_chart(losses, progress.steps, words("jobs.loss"))
    charts += looks_chart(looks_of(run), progress.steps, parts, words("jobs.looks"))
    drawn = f'<div class="charts">{charts}</div>' if charts else ""
    return drawn + previews(run, words)


def previews(run: Run, words: Words) -> str:
    """Show previews by step, the newest first."""
    found = run.previews()
    columns: list[str] = []
    for step in sorted(found, reverse=True)[:MOST_LOOKS]:
        name = words("jobs.step", step=step)
        images = "".join(
            image_tag(
                part("runs", run.folder.name, "previews", path.name) + f"?v={path.stat().st_mtime_ns:x}",
                name,
                lazy=False,
            )
            for path in found[step]
        )
        columns.append(f"<figure>{images}<figcaption>{text(name)}</figcaption></figure>")
    return f'<div class="previews">{"".join(columns)}</div>' if columns else ""


def library_part(shop: Workshop, words: Words) -> str:
    """Show the runs as cards, and what is in the trash."""
    runs = shop.runs()
    cards = "".join(run_card(shop, one, runs, words) for one in runs)
    return (f'<div class="runs">{cards}</div>' if cards else empty(words("library.empty"))) + trash_part(shop, words)


def trash_part(shop: Workshop, words: Words) -> str:
    """List the deleted runs, each with a way back."""
    found = list_trash(shop.library)
    if not found:
        return ""
    rows = "".join(
        f"<li>{text(name)} {button(words('library.undo'), part('trash', place, 'restore'))}</li>"
        for place, name in found[:20]
    )
    return f'<section class="trash"><h3>{text(words("library.trash"))}</h3><ul>{rows}</ul></section>'


def run_card(shop: Workshop, one: RunSummary, runs: Sequence[RunSummary], words: Words) -> str:
    """Show one run: its image, scores, diagnosis, origin, and what can be done with it."""
    name, version = one.name, f"{one.changed:.0f}"
    image = (
        image_tag(f"{part('runs', name, 'thumbnail')}?v={version}", name)
        if one.image
        else '<span class="blank"></span>'
    )
    scores = "".join(chip(f"{title} {value:.2f}") for title, value in one.scores.items())
    state = "" if one.finished else chip(words("library.unfinished"), "warn")
    verdict = f'<p class="verdict {one.severity or "good"}" lang="en">{text(one.verdict)}</p>' if one.verdict else ""
    facts = definition([(words("library.subject"), one.subject), (words("library.made"), made_of(one, words))])
    return (
        f'<article class="run">{image}<div><header><h3>{text(name)}</h3>{state}</header>'
        f'<p class="chips">{scores}</p>{verdict}{facts}{origin(one, runs, words)}'
        f'<div class="row">{run_buttons(shop, one, words)}</div></div></article>'
    )


def made_of(one: RunSummary, words: Words) -> str:
    """Write the base, the method and the steps of a run."""
    return f"{one.base}, {one.method}, {words('library.steps', count=one.steps)}"


def origin(one: RunSummary, runs: Sequence[RunSummary], words: Words) -> str:
    """Say from what a run was made, and what was changed."""
    try:
        found = trace(one, runs)
    except UserError:
        return ""
    lines = [words("library.from", name=found.start)] if found.start else []
    if found.parent:
        changes = "; ".join(f"{key}: {before} → {now}" for key, before, now in found.changes)
        lines.append(words("library.parent", name=found.parent, changes=changes or words("library.same")))
    if not lines:
        return ""
    said = "".join(f"<p>{text(line)}</p>" for line in lines)
    return f"<details><summary>{text(words('library.lineage'))}</summary>{said}</details>"


def run_buttons(shop: Workshop, one: RunSummary, words: Words) -> str:
    """Write what can be done with a run."""
    if shop.busy(one.name):
        return chip(words("library.busy"))
    place = ("runs", one.name)
    rename = (
        f'<form class="inline" data-form="{part(*place, "rename")}"><input name="to" value="{text(one.name)}" '
        f'maxlength="80" aria-label="{text(words("library.new_name"))}"><button class="act">'
        f"{text(words('library.rename'))}</button></form>"
    )
    more = ""
    if one.finished:
        links = "".join(
            f'<a class="act" href="{part(*place, "adapter")}?format={kind}" download>{kind}</a>'
            for kind in ("mascot", "diffusers", "kohya", "comfyui", "peft")
        )
        card = f'<a class="act" href="{part(*place, "card")}" download>{text(words("library.card"))}</a>'
        report = (
            f'<a class="act" href="{part(*place, "report")}?download=1" download>{text(words("library.report"))}</a>'
        )
        score = button(words("library.score"), part(*place, "evaluate"), said=words("library.measuring"))
        more = f'<span class="label">{text(words("library.download"))}</span>{links}{report}{card}{score}'
    delete = button(words("library.delete"), part(*place, "delete"), kind="quiet")
    return f"{more}{rename}{delete}"


class Kept:
    """Keeps what a function made for a moment, so that many visitors cost no more than one."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self.found: dict[tuple[str, str], tuple[float, str]] = {}

    def get(self, name: str, words: Words, make: Callable[[], str]) -> str:
        """Return what was made lately, or make it."""
        key = name, words.language
        at, made = self.found.get(key, (0.0, ""))
        if time.monotonic() - at > self.seconds or not made:
            made = make()
            self.found[key] = time.monotonic(), made
        return made
