"""Image generation: base + adapter + prompts + seeds + knobs -> images.

`generator` is the only code that generates images, for previews, class images, scores and commands.
`stack` is about one adapter or several in an image, and `loading` opens them with their base model.
`start_image` reads the image that generation starts from, and the mask of what is redrawn. `knobs`
defines the inference settings, of which `knob_checks` refuses those that an adapter cannot use.
`sample_cache` keeps images and their embeddings, so that nothing is generated or embedded twice.
`image_grid` and `knob_grid` compose labeled grids. `prompts` lists those of previews, validation
and reports, and tells which are too long.

The denoising loop and guidance are in `diffusion`, text and image encoders of a base in `models`,
the scores of images in `evaluation`. The rooms `recipe`, `runs`, `evaluation`, `experiments`, `api`
and `cli` may import this one.
"""
