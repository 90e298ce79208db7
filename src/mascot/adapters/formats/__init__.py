"""Adapter files of other tools: their names of layers and tensors, read into and written from ours.

Our own form is that of diffusers: `unet.LAYER.lora_A.weight`, with ranks and alphas in the
metadata. `registry` reads every format into it and writes it as another, dict to dict; no function
here reads a file or a base model. `layer_kinds` knows what a layer can hold (LoRA, DoRA, LoHa,
LoKr), `layer_settings` ranks and alphas. `unet_names` and `text_encoder_names` know the layers'
names; a new kind of denoiser is one more `DenoiserNames` (`layer_names`) in the registry's table.

It may be imported by the rest of `adapters` and every room above it.
"""
