"""Photos, captions and class images, up to the batches that the training loop reads.

`photos` and `image_decoding` read image files; `captions` and `prompt_templates` write the prompts.
`photo_audit` measures a set of photos and lists its problems, before any model is loaded.
`crops` cuts photos to the training size. `dataset` encodes them and plans the micro-batches.
`encoding_cache` holds latents and text embeddings. `class_images` makes the images for prior
preservation.

The autoencoder and the text encoders are in `models`, and noise is in `diffusion`.
The prompts of an evaluation are in `evaluation`.

No file here reads a `Recipe`: `runs`, `evaluation`, `experiments` and `api` pass in what is needed.
Any room above may import this one; `models` and `adapters` may not.
"""
