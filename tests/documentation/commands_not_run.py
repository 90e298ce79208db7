"""Commands of the documentation that no test runs as they stand, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

HUB = "it downloads from the model hub, or uploads to it; tests have no network"
INSTALLS = "it installs packages; the extras that it names are checked, and `make test` installs them"
COLAB = "it is for a machine of Colab's"
HOURS = "it measures for an hour or more; the script's own tests run its parts"
OTHER = "it needs another program or its files, which are not part of this repository"
STARTER = "tests/starter_training/test_commands.py runs it, in its order, at a tiny size"
CI = "it is what CI runs"
LOOP = "it is the body of a loop of the shell; the same command with a folder's name is run"
SERVES = "it serves until it is stopped; tests/studio runs it"
RAY = "it needs a Ray cluster; tests/experiments runs the executor"

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
NOT_RUN: Mapping[str, str] = {
    "make demo": CI,
    "git clone ... '&&' cd mascot": HUB,
    ".venv/bin/mascot doctor": CI,
    "pip install 'mascot[studio]'": INSTALLS,
    "mascot studio": SERVES,
    "mascot studio --library work/runs --port 8000": SERVES,
    "mascot studio --address 0.0.0.0 --password 'eight letters or more'": SERVES,
    "mascot doctor photos/ --recipe recipes/study.toml --no-measure": HUB,
    "mascot train photos/ --recipe recipes/study.toml": HUB,
    "mascot train examples/mascot/photos --recipe recipes/study.toml --base starter --class-noun owl --set token=none "
    "--set dataset.resolution=128 --set training.optimizer=adamw": HOURS,
    "make test": CI,
    "pip install -c constraints.txt .": INSTALLS,
    "pip install -c constraints.txt '.[optimizers]'": INSTALLS,
    "pip install -c constraints.txt '.[ray,search]'": INSTALLS,
    "pip install -c constraints.txt '.[studio]'": INSTALLS,
    "pip install -e '.[recipe]' -c constraints.txt": INSTALLS,
    "python3 -m venv .venv": INSTALLS,
    "hf auth login": HUB,
    f"mascot doctor photos/ --class-noun dog --base {SD}": HUB,
    f"mascot doctor photos/ --class-noun dog --base {SD} --set training.gradient_checkpointing=true": HUB,
    f"mascot train photos/ --class-noun dog --base {SD}": HUB,
    "mascot train photos/ --class-noun dog --caption-with Salesforce/blip-image-captioning-base": HUB,
    "mascot publish runs/owl --repo me/my-owl --license cc-by-4.0 --private": HUB,
    "mascot generate me/my-owl 'a {subject} in the snow'": HUB,
    "mascot generate 'a {bird}' --adapter bird=runs/owl@200:0.9 --adapter someone/style": HUB,
    "mascot train '$subject' --class-noun toy --out 'runs/$(basename $subject)'": LOOP,
    "mascot sweep recipe.toml --over method.rank=4,16 --over steps=200,400 --engine ray --address ray://head:10001 "
    "--out runs/sweep": RAY,
    "mascot suite dreambooth/ --subjects dog6,cat,red_cartoon,duck_toy,can,backpack,teapot,wolf_plushie --prompts 5 "
    "--images 2 --set training.steps=200 --set selection.active=false --set knobs.guidance=5": HOURS,
    "pip wheel --no-deps stable-diffusion-cpp-python": OTHER,
    "python benchmarks/independent_reader.py --python ENVIRONMENT/bin/python": OTHER,
}
"""Command -> why it is not run."""

NOT_RUN_BEGINNINGS: Mapping[str, str] = {
    "python -m starter_training ": STARTER,
    "python benchmarks/": HOURS,
    "/content/env/bin/": COLAB,
    "python3 -m venv /content/env": COLAB,
    "unzip -q mascot.zip": COLAB,
    "--set ": "it is the end of a command line; the recipe has its keys",
}
"""Beginning of a command -> why it is not run."""


def reason_not_to_run(text: str) -> str | None:
    """Return why a command is not run; None for one that is."""
    if text in NOT_RUN:
        return NOT_RUN[text]
    return next((reason for begin, reason in NOT_RUN_BEGINNINGS.items() if text.startswith(begin)), None)
