"""Tests that read the source tree itself: skipped where only the installed package is there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

of_source = pytest.mark.skipif(
    not (ROOT / "fkdiff" / "__init__.py").is_file(),
    reason="reads the source tree, and only the installed package is here",
)
