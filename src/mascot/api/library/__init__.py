"""The library: a folder of runs, as a page or a notebook shows it.

`listing` summarizes runs, `curves` reads what a run measured while it trained, `lineage` says what
a run changed, `changes` renames, deletes and restores, and `measured_images` generates images with
their settings and their scores. Nothing here prints, and nothing knows the page.
"""
