"""Run one step: `python -m starter_training STEP --work FOLDER`.

Each step can be run again. README.md has the order and the times.
"""

from __future__ import annotations

import sys

from starter_training.cli import app

sys.exit(app())
