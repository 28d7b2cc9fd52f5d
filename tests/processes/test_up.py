"""`up` left alone: it turns three times while recordings keep arriving, and HTTP goes on answering."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import httpx
import pytest
from town import LINE, SMALL, open_town

pytestmark = pytest.mark.slow

TURNS = 3


class Asking(threading.Thread):
    """Asks /health without a pause worth the name, and keeps each answer and what it was that did not answer."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self._address, self._enough = address, threading.Event()
        self.answers, self.failures = [], []

    def run(self):
        with httpx.Client(base_url=self._address, timeout=10.0) as client:
            while not self._enough.wait(0.05):
                try:
                    answer = client.get("/health")
                    self.answers.append((answer.status_code, answer.json()["facts"]))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))

    def stop(self):
        self._enough.set()
        self.join()


def brought(town, number):
    """`fleetmill import` of the nth recording of the fleet, as another device's, while the factory runs."""
    chosen = town.facts("recording")[number]
    device = f"guest-{number}"
    path = town.plan.folder / f"{device}.mcap"
    path.write_bytes(town.home.blobs.get(chosen.key))
    command = [sys.executable, "-m", "fleetmill.cli", "import", str(path), "--line", LINE.name, "--device", device]
    return subprocess.run([*command, "--home", str(town.plan.home)], capture_output=True, text=True)


def test_up_turns_three_times_while_recordings_arrive_and_http_answers(tmp_path):
    with open_town(tmp_path / "town", generations=TURNS, recipe=replace(SMALL, train={"steps": 200})) as town:
        town.start()
        asking = Asking(town.processes.address)
        asking.start()
        for turn in range(TURNS):
            town.wait_for(lambda turn=turn: len(town.facts("turn_begun")) > turn, f"turn {turn}")
            came = brought(town, turn)
            assert (came.returncode, came.stderr) == (0, "")
        town.wait_for(lambda: len(town.facts("turn_ended")) == TURNS, "the third turn")
        asking.stop()

        begun, ended = town.facts("turn_begun"), town.facts("turn_ended")
        arrived = [f.seq for f in town.facts("recording")]
        turning = [(b.seq, e.seq) for b, e in zip(begun, ended, strict=True)]
        assert [f.record["turn"] for f in ended] == list(range(TURNS))
        assert all(any(a < seq < b for seq in arrived) for a, b in turning), "nothing arrived in a turn"
        assert asking.failures == []
        assert {status for status, _ in asking.answers} == {200}
        answered = [facts for _, facts in asking.answers]
        assert answered == sorted(answered)
        assert all(any(a <= facts < b for facts in answered) for a, b in turning), "nothing was answered in a turn"
        assert town.home.books.faults() == []
        assert town.home.books.verify() == []
