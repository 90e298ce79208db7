"""The public verbs, one file each: what the command line, a notebook and the studio call.

`mascot/__init__.py` exports the verbs lazily, so user code writes `mascot.train`. A verb joins the
rooms below and returns plain values. It reports progress through `on_event` (see `progress.py`).

Parsing of options and printing live in `cli/`. Training lives in `runs/`, scoring in
`evaluation/`, and work over many runs in `experiments/`. `training_report.py` is no verb: it is
the end of `train`.

Only `cli/`, `studio/`, scripts and tests import this room.
"""
