"""What the tests with real processes have."""

from __future__ import annotations

import pytest
from town import open_town


@pytest.fixture(scope="session", autouse=True)
def _one_process_judges():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEETMILL_WORKERS", "1")
        yield


@pytest.fixture
def town(tmp_path):
    with open_town(tmp_path / "town") as found:
        yield found


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The digests that an undisturbed run comes to."""
    with open_town(tmp_path_factory.mktemp("town") / "undisturbed") as found:
        found.start()
        found.wait_for_models(2)
        assert "0 crashes" in found.check_books()
        return found.digests()
