"""How the embedded base model is made: drawings -> scenes -> autoencoder -> text encoder and UNet -> package data."""
