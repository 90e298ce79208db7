"""What base models are made of.

`families/` holds one file for each kind of base model. `starter/` is the base model inside the
package. The other files hold what families share: opening and saving diffusers pipelines, stages
with a UNet or a flow transformer, the autoencoder, token embeddings, quantized weights, and sizes
and devices.

What does not live here: objectives and solvers (`diffusion`), LoRA layers and adapter files
(`adapters`), what is trained (`methods`), the protocols `Family` and `Stage` (`protocols`).

This room imports `diffusion`, `storage`, `protocols` and `errors`. `methods`, `training`,
`generation` and every room above them may import it. `adapters` and `data` may not.
"""
