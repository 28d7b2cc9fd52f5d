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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished little demo; look at it, copy it, do not change it."""
    from finished import live_through, open_fleet

    folder = tmp_path_factory.mktemp("finished")
    with open_fleet(folder) as fleet:
        decisions = [t.verdict.decision for t in live_through(fleet)]
        assert decisions == ["accepted", "accepted", "held"]
    return folder / "home"
