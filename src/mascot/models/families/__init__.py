"""The kinds of base models: one file each, with `NAME` and `load(source, device, precision)`.

`registry` maps a pipeline's class to its family, and `base_source` reads which class a base has. So
a family is detected from the base's files and never asked for. `docs/extending.md` lists the steps
for a new one.

What several families share is in `models`. What is trained is in `methods`.

A family imports `models` and `diffusion`, and no other family. Rooms above `models` import
`registry` alone: nothing outside this folder names a family.
"""
