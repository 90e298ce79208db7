"""Commands that tests run in their own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from mascot.cli import app


@dataclass(frozen=True)
class Command:
    """Runs `mascot` in this process."""

    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        self.patch.setattr(sys, "argv", ["mascot", *map(str, words)])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as stop:
            app.main()
        printed, errors = self.capture.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, printed, errors
