"""What other tools read in the header of an adapter file, from values that a caller passes.

`model_spec` writes the keys of ModelSpec, `kohya_header` those of kohya's scripts, which A1111's
web UI reads too. `tensor_hashes` fills in the hashes when a file is whole, and `thumbnails` makes
the small image of a header.

It may be imported by the rest of `adapters` and every room above it. It reads no file.
"""
