"""How good the pictures are: one file for each question, pure functions on embeddings (`encoders.py` makes those)."""
