"""Notices and progress bars of libraries, which say nothing that a user can act on."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Switch off warnings, notices and progress bars of libraries, which a user cannot act on."""
    warnings.filterwarnings("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # before diffusers imports it
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
