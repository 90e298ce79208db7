"""The starter's networks, and how each is trained on composed scenes.

`tokenizer` trains the vocabulary, `autoencoder` the VAE, `base` the text encoder and the UNet.
`encoders` defines the CLIP and the identity encoder, `distillation` one of the latter's two
objectives, and `encoder_training` trains both. `prompt_grid` generates 24 fixed prompts to look at.

Budgets are minutes, not steps, and every training resumes from its checkpoint. `data_parallel`
averages gradients over processes; `export` writes package data.
"""
