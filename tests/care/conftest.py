"""What the tests of living with a home have: a home of format 1 as it was written, and a small living one."""

from __future__ import annotations

import tarfile

import pytest
from house import ARCHIVE, ASKED, Fleet

from fleetmill.home import init_home
from fleetmill.settings import Settings
from fleetmill.testing import Clock


@pytest.fixture
def old(tmp_path):
    """The folder of the archive: home, d0, d1, d2, requests.json."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def fleet(tmp_path):
    """A new home with three enrolled devices that have not lived yet."""
    settings = Settings(home=tmp_path / "home", lines={"tiny": ASKED}, poll_seconds=0.0)
    clock = Clock()
    init_home(settings, now_ns=clock())
    found = Fleet(settings, tmp_path, clock)
    found.enrol()
    return found
