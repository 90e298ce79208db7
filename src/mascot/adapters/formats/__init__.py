"""Adapter files of other tools: their names of layers and tensors, read into and written from ours.

Our own form is that of diffusers: `unet.LAYER.lora_A.weight`, with ranks and alphas in the
metadata. Every other format is two functions beside it, dict to dict: into our form, and out of it.
No function here reads a file or a base model.

It may be imported by the rest of `adapters` and every room above it.
"""
