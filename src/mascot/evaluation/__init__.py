"""Evaluation of a trained run: scores, comparison of runs, and what is decided by scores.

`evaluation_task` says what a run has to generate, `samples` generates it, and `evaluator` scores
it. `scores` is the file with the results; `comparison` and `bootstrap` compare runs with intervals.
`score_tables` and `scores_page` present them. `metrics` holds the metrics, one file each, and the
encoders that they need. `selection` chooses checkpoint, knobs and token, and `diagnosis` names
failure modes.

Images are generated in `generation`. What trains several runs is in `experiments`, and the public
functions `evaluate`, `compare` and `diagnose` are in `api`. The rooms `experiments`, `api` and
`cli` may import this one.
"""
