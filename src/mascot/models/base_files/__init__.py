"""What a base's files hold, and how they are read where they leave something open.

`file_contents` tells what a single file is from its header. `architectures` finds the settings of
its parts from the shapes of their tensors, and `single_file` makes the parts. `clip_vocabulary` is
the tokenizer of every Stable Diffusion, which a single file lacks. `measured_prediction` finds what
a denoiser predicts where its file does not say it. `base_reading` holds what the
user can say about a base. `part_checks` refuses settings and weights that no base has.

`weight_places` finds where each weight lies, so that one can be read or replaced alone.

What does not live here: folders in the diffusers layout (`pipeline_files`), and which family a base
belongs to (`families`).

This room imports `storage` and `errors` alone. `models` and every room above it may import it.
"""
