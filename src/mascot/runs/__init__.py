"""Training runs: a recipe goes in, a folder with a trained adapter comes out.

`opening.py` prepares a run, or one that is resumed; `training_run.py` holds its inputs and phases;
`training_steps.py` trains it step by step, with log, previews and checkpoints; `batch_plan.py`
plans whose photos each micro-batch holds; `export.py` writes what comes out.
`effective_settings.py` lists what a recipe resolves to on given photos.

The optimizer loop itself lives in `training/`, the names of a run's files in
`storage/run_folder.py`, and selection of checkpoint and knobs in `evaluation/selection/`. The verb
`train` is `api/train.py`.

`evaluation/`, `experiments/`, `api/` and `cli/` may import this room.
"""
