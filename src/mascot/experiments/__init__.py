"""Work over many runs: sweeps of settings, suites of subjects, and cross-validation over photos.

`sweep.py` trains one recipe with several settings (`search_space.py`, `search.py`) and ranks the
runs on a leaderboard. `suite.py` trains and scores every subject of a collection.
`cross_validation.py` holds out each photo of a run in turn. They share `executors.py` (this
process, or Ray) and `base_pool.py` (a base is loaded once). Finished work is never redone, and a
failed run stops no other.

How one run is trained and scored is passed in as a callable, so nothing here imports `api/`.
One run lives in `runs/`, its scores in `evaluation/`. Only `api/` and `cli/` may import this room.
"""
