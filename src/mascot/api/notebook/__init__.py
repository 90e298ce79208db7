"""What a notebook needs beside the verbs: a live view of a job, results as cells, a bundle to keep.

`LiveProgress` subscribes to the events of a verb; `show` turns what a verb returned into the output
of a cell; `bundle` packs an adapter in several formats; `example_photos` and `save_uploads` give
photos; `quiet_libraries` hides the notices of libraries.

Nothing here needs a package of notebooks: without one there is nothing to see, and all else works.
It may be imported by `cli`, `studio`, notebooks and scripts, and imports every room below `api`.
"""
