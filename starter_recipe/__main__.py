"""`python -m starter_recipe STEP --work FOLDER`: each step can be run again; see README.md for the order and the times."""

from __future__ import annotations

import sys

from starter_recipe.steps import app

sys.exit(app())
