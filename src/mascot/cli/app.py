"""The verbs as commands. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import TyperException

from mascot.cli.options import (
    Base,
    ClassNoun,
    Photos,
    RecipeFile,
    RunOrAdapter,
    Seed,
    Set,
    Steps,
    Token,
    build_recipe,
    names,
    parse_folds,
    parse_size,
)
from mascot.errors import UserError

app = typer.Typer(
    name="mascot",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a text-to-image model one subject from a few photos, draw it anywhere, and see how good the result is.",
)


INTERRUPTED = 130


def show_version(*, value: bool) -> None:
    """Print the version and stop."""
    if value:
        from mascot import __version__

        typer.echo(f"mascot {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    *, version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")] = False
) -> None:
    """Teach a text-to-image model one subject from a few photos, draw it anywhere, and see how good the result is."""
    del version


@app.command()
def train(
    photos: Photos = None, *, class_noun: ClassNoun = None, base: Base = None,
    method: Annotated[str | None, typer.Option(help="The method by which it learns; recipes say more.", show_default=False)] = None,
    token: Token = None, recipe: RecipeFile = None, overrides: Set = None, steps: Steps = None, seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; a new one under runs/ when not given.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, exactly where it was stopped.")] = False,
) -> None:  # fmt: skip
    """Teach a base the subject of some photos; ends in an adapter and a report."""
    from mascot.cli.train import train_visibly

    changed = [photos, class_noun, base, method, token, recipe, overrides, steps, seed]
    if resume:
        from mascot.recipe.recipe import Recipe
        from mascot.storage.run_folder import open_run

        if out is None:
            raise UserError("--resume needs the run's folder: give --out RUN.")
        if any(value is not None and value != [] for value in changed):
            raise UserError("a resumed run keeps its recipe: give only --resume and --out RUN.")
        train_visibly(Recipe.read(open_run(out).recipe), out, resume=True)
        return
    made = build_recipe(
        photos, class_noun=class_noun, base=base, token=token, file=recipe, overrides=overrides, seed=seed, method=method, steps=steps
    )
    train_visibly(made, out, resume=False)


@app.command()
def generate(
    adapter: RunOrAdapter,
    prompts: Annotated[list[str], typer.Argument(help="What to draw; {subject} stands for token and class noun.")],
    *,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt; the next has seed + 1.")] = 0,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", show_default=False)] = None,
    unet_scale: Annotated[float | None, typer.Option(help="Strength of the denoiser's part; 0 is the base.", show_default=False)] = None,
    text_scale: Annotated[float | None, typer.Option(help="Strength of the text encoder's part.", show_default=False)] = None,
    negative: Annotated[str | None, typer.Option(help="What not to draw.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.", show_default=False)] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, dpm++, euler or unipc.", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.", show_default=False)] = None,
    base: Annotated[str | None, typer.Option(help="Another place where the adapter's base lies.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; pictures/ beside the adapter when not given.")] = None,
) -> None:
    """Draw prompts with a trained adapter; knobs that are not given are those of the run's recipe."""
    from mascot.cli.generate import generate_visibly

    turned = {
        "guidance": guidance, "unet_scale": unet_scale, "text_scale": text_scale, "negative": negative, "steps": steps, "solver": solver,
        **parse_size(size),
    }  # fmt: skip
    generate_visibly(
        adapter, prompts, {key: value for key, value in turned.items() if value is not None}, count=count, seed=seed, base=base, out=out
    )


@app.command()
def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs' folders or adapter files; with --real, folders of photos; none with --suite.", show_default=False),
    ] = None,
    *,
    suite: Annotated[
        Path | None,
        typer.Option(
            help="Teach and score every subject of a collection (prompts_and_classes.txt and a folder of photos for each subject).",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="With --suite: methods, with commas.", show_default=False)] = None,
    subjects: Annotated[str | None, typer.Option(help="With --suite: these subjects alone, with commas.", show_default=False)] = None,
    cut: Annotated[
        int | None, typer.Option("--prompts", min=1, help="With --suite: so many of each list's prompts.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --suite: change any setting of every run: --set training.steps=200.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --suite: its folder, which a later call goes on with.", show_default=False)] = None,
    real: Annotated[bool, typer.Option("--real", help="Score photos against each other: the ceiling, a row for each folder.")] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Draw this in place of the report's prompts; {subject} names it.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1000, help="Pictures of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt; the next has seed + 1.")] = 0,
    live: Annotated[
        bool | None,
        typer.Option("--live/--thing", help="Whether it can wear things; by its class noun when not given.", show_default=False),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(help="Photos to compare with, in place of the run's; others than it learned from are held out.", show_default=False),
    ] = None,
    cross_validate: Annotated[
        str | None,
        typer.Option(
            help="Train again without each photo in turn, all or so many: a copy score of the run's own photos.", show_default=False
        ),
    ] = None,
    identity: Annotated[str | None, typer.Option(help="Encoder of identity: starter, a folder or a hub id.", show_default=False)] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP: starter, a folder or a hub id.", show_default=False)] = None,
    base: Annotated[
        str | None, typer.Option(help="Another place where the adapter's base lies; with --suite, the base to teach.", show_default=False)
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where it runs; auto takes an accelerator.")] = "auto",
) -> None:
    """Draw the report's prompts and score the pictures: likeness, prompt, variety, drift, copying; several runs make one table."""
    from mascot.cli.evaluate import calibrate_visibly, evaluate_visibly, suite_visibly

    judged = {"identity": identity, "clip": clip, "device": device, **({"base": base} if base else {})}
    of_suite = {"methods": names(methods), "subjects": names(subjects), "prompts": cut, "overrides": overrides}
    given = {key: value for key, value in of_suite.items() if value is not None and value != []}
    if suite is not None:
        if runs or real or prompts or photos or live is not None or cross_validate is not None:
            raise UserError("--suite trains its own runs on its own photos and prompts; it goes with none of the options for other runs.")
        suite_visibly(suite, out, images=images, seed=seed, **judged, **given)
        return
    if given or out is not None:
        raise UserError("--methods, --subjects, --prompts, --set and --out are for --suite; give --suite DIR with them.")
    if not runs:
        raise UserError("there is nothing to evaluate; give a run's folder, or --suite DIR.")
    if not real:
        evaluate_visibly(
            runs, prompts=prompts or None, images=images, seed=seed, live=live, photos=photos or (), identity=identity, clip=clip,
            base=base, device=device, folds=parse_folds(cross_validate),
        )  # fmt: skip
        return
    if prompts or photos or live is not None or cross_validate is not None:
        raise UserError("--real draws nothing; give folders of photos with --identity, --clip, --base and --device alone.")
    calibrate_visibly(runs, **judged)


@app.command()
def diagnose(
    run: RunOrAdapter,
    *,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Diagnose by this in place of mascot's own prompts; {subject} names it.", show_default=False),
    ] = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Photos of the subject to compare with, in place of the run's.", show_default=False)
    ] = None,
    identity: Annotated[str | None, typer.Option(help="Encoder of identity: starter, a folder or a hub id.", show_default=False)] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP: starter, a folder or a hub id.", show_default=False)] = None,
    base: Annotated[str | None, typer.Option(help="Another place where the adapter's base lies.", show_default=False)] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where it runs; auto takes an accelerator.")] = "auto",
) -> None:
    """Say what went wrong with a run, by name: each with its number, the pictures that show it, and what to change."""
    from mascot.cli.evaluate import diagnose_visibly

    diagnose_visibly(run, prompts=prompts or None, photos=photos or (), identity=identity, clip=clip, base=base, device=device)


@app.command()
def compare(
    one: Annotated[Path, typer.Argument(help="An evaluated run's folder or adapter file.")],
    other: Annotated[Path, typer.Argument(help="Another one, evaluated with the same options.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The page with the pictures side by side; in the first run's folder when not given.", show_default=False),
    ] = None,
) -> None:
    """Compare two evaluated runs prompt by prompt and seed by seed: every difference with its interval, the pictures side by side."""
    from mascot.cli.evaluate import compare_visibly

    compare_visibly(one, other, out)


@app.command()
def sweep(
    what: Annotated[Path, typer.Argument(help="A recipe (.toml) to train over settings, or a run or adapter to turn knobs of.")],
    *,
    over: Annotated[list[str], typer.Option(help="A setting and its values, such as method.rank=4,16 or guidance=3,5,9.")],
    overrides: Set = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Search so many settings instead of trying all.", show_default=False)] = None,
    by: Annotated[str, typer.Option(help="The metric of `evaluate` that ranks.")] = "identity",
    images: Annotated[int, typer.Option(min=1, max=1000, help="Pictures of each prompt to score a run by.")] = 1,
    prompt: Annotated[str | None, typer.Option(help="What the grid of pictures shows.", show_default=False)] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="A Ray cluster's address; this machine when not given.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder, which may be gone on with.", show_default=False)] = None,
) -> None:
    """Train and score a recipe over some settings, or draw an adapter over some knobs: one leaderboard, one labelled grid."""
    from mascot.cli.sweep import sweep_visibly, turn_visibly

    if what.suffix != ".toml":
        if trials or overrides or by != "identity":
            raise UserError("knobs are only drawn: give --over, --prompt and --out.")
        turn_visibly(what, over, prompt=prompt, out=out)
        return
    sweep_visibly(what, over, overrides or (), trials=trials, by=by, images=images, prompt=prompt, engine=engine, address=address, out=out)


@app.command()
def token(
    *,
    base: Base = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Tokens to show.")] = 5,
    candidates: Annotated[int, typer.Option(min=1, max=10_000, help="Rare words to draw.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Decides which rare words are looked at, and what is drawn of them.")] = 0,
) -> None:
    """Find words that mean nothing in particular to a base: what to call a subject."""
    from mascot.cli.sweep import token_visibly

    token_visibly("starter" if base is None else base, count=count, candidates=candidates, seed=seed)


@app.command()
def doctor(
    photos: Photos = None, *, class_noun: ClassNoun = None, base: Base = None, recipe: RecipeFile = None, overrides: Set = None,
    measure: Annotated[bool, typer.Option(help="Load the base and time a few steps.")] = True,
) -> None:  # fmt: skip
    """Look at photos and settings before training: what will be used, what is wrong, what it will cost."""
    from mascot.cli.train import doctor_visibly

    made = build_recipe(photos, class_noun=class_noun, base=base, token=None, file=recipe, overrides=overrides, seed=None)
    doctor_visibly(made, measure=measure)


def main() -> None:
    """Run a command. Exit code 0: done; 2: the user can mend it, one sentence on stderr; 130: interrupted, everything saved."""
    # transformers reads this when it is imported; its notices say nothing that a user could act on.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # as above; it tells every try of a download, and then we say the outcome
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        code = app(prog_name="mascot", standalone_mode=False)
    except UserError as error:
        code = refuse(str(error))
    except TyperException as error:
        code = refuse(describe_usage(error))
    except OSError as error:
        if error.strerror is None:  # not the system's own refusal: a fault of ours
            raise
        from mascot.storage.atomic_write import REMEDIES

        remedy = REMEDIES.get(error.errno or 0, "choose another place")
        code = refuse(f"{error.filename or 'a file'} cannot be used ({error.strerror}); {remedy}.")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns most interruptions into this code by itself, without a word
        typer.echo("mascot: interrupted; what was done is kept.", err=True)
    sys.exit(code or 0)


def describe_usage(error: TyperException) -> str:
    """What is wrong with a command line, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mascot"
    message = error.format_message().strip() or "No command is given."
    return f"{message if message[-1] in '.?!' else f'{message}.'} See {command} --help."


def refuse(sentence: str) -> int:
    """Say what is wrong in one line."""
    typer.echo(f"mascot: {' '.join(sentence.split())}", err=True)
    return 2
