"""Write what was trained as package data of `mascot.models.starter`.

`export_base` writes the Stable Diffusion folder, `export_encoders` the CLIP and the identity
encoder. Both write half precision, read the folder back and compare its outputs before it replaces
the old one. `package_folder` has what both do to a folder, `model_cards` the texts of their README.

Photos of the held-out subjects are written by `scenes.subjects`. Only the command line and tests
import this folder.
"""
