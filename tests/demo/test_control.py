"""The control trains no more than the report may ask for, and is waited for no longer than that."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fleetmill.core.errors import EngineError
from fleetmill.demo import control
from fleetmill.seams.ledger import Draft, open_ledger


@pytest.fixture
def ledger():
    opened = open_ledger("sqlite://", clock=lambda: 1)
    yield opened
    opened.close()


def turned(ledger, *releases):
    drafts = [
        Draft(kind="turn_ended", key=f"tiny/{n}", record={"line": "tiny", "turn": n, "release": release})
        for n, release in enumerate(releases)
    ]
    ledger.append([*drafts, Draft(kind="turn_ended", key="other/0", record={"line": "other", "turn": 0, "release": 9})])
    return SimpleNamespace(ledger=ledger)


@pytest.mark.parametrize(
    ("releases", "generation", "of", "wanted"),
    [
        ((1,), 1, 3, True),  # a second may be accepted
        ((0, 1), 1, 3, True),
        ((0, 0, 0), 1, 3, False),  # none was
        ((0, 1, 0), 1, 3, False),  # the one that was is the first
        ((1, 0, 2), 1, 3, True),
        ((1, 2, 3), 2, 3, True),
    ],
)
def test_a_training_that_nobody_will_ask_for_is_left_out(ledger, releases, generation, of, wanted):
    home = turned(ledger, *releases)

    assert control._may_be_asked(home, "tiny", generation, of) is wanted


def test_a_control_that_has_the_model_is_not_waited_for(tmp_path):
    (tmp_path / "control-1.onnx").write_bytes(b"model")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        control.wait(process, tmp_path, 1)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.write(b"\n")


def test_a_control_that_ended_without_the_model_says_so(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        process.wait()
        with pytest.raises(EngineError, match="exit code 3"):
            control.wait(process, tmp_path, 1)
