"""What every test has."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def data() -> Path:
    """Real recordings beside the checkout; skips where they are absent."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here: real recordings lie beside the checkout only on the team's machines")
    return DATA
