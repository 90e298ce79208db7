"""The embedded base's nouns that mean about the same as an unknown one, by the embedded CLIP.

The CLIP was trained on the names of 840 animals and things, many more than the base. So it knows
what most nouns look like that the base was never shown.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from mascot.models import starter


@torch.no_grad()
def nearest_nouns(noun: str, count: int = 3) -> list[str]:
    """Return the embedded base's `count` nouns nearest to a noun, the nearest first.

    Nearness is the cosine of the CLIP's embeddings of `a photo of a NOUN`, after the mean over all
    of the base's nouns has been taken off.

    Raises:
        UserError: the base or the CLIP is missing from the installation.
    """
    known, folder = starter.nouns(), starter.clip_folder()
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    captions = [f"a photo of a {word}" for word in (noun.lower(), *known)]
    inputs = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    embeddings_BD = F.normalize(model.get_text_features(input_ids=inputs.input_ids).pooler_output, dim=-1)
    centered_BD = F.normalize(embeddings_BD - embeddings_BD[1:].mean(0), dim=-1)
    nearest = (centered_BD[1:] @ centered_BD[0]).topk(count).indices
    return [known[number] for number in nearest.tolist()]
