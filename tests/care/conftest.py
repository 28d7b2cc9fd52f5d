"""What the tests of living with a home have: a home of format 1 as it was written, and a small living one."""

from __future__ import annotations

import shutil
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
    return _new(tmp_path)


@pytest.fixture(scope="session")
def _grown(tmp_path_factory):
    """Made once: a home that has turned twice. Its folder, and the time there."""
    folder = tmp_path_factory.mktemp("grown")
    found = _new(folder)
    assert [found.round().number, found.round().number] == [0, 1]
    return folder, found.clock.now_ns


@pytest.fixture
def grown(_grown, tmp_path):
    """A copy of a home that has turned twice, with its three devices."""
    folder, now_ns = _grown
    shutil.copytree(folder, tmp_path / "grown")
    settings = Settings(home=tmp_path / "grown" / "home", lines={"tiny": ASKED}, poll_seconds=0.0)
    return Fleet(settings, tmp_path / "grown", Clock(now_ns))


def _new(folder):
    settings = Settings(home=folder / "home", lines={"tiny": ASKED}, poll_seconds=0.0)
    clock = Clock()
    init_home(settings, now_ns=clock())
    found = Fleet(settings, folder, clock)
    found.enrol()
    return found
