"""Nothing with a label reaches a partner, seen from outside the gateway: its system calls, in a network of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from shutil import which

import pytest
import uvloop

from fleetmill.core.serve import Label, Tier
from simulated import Engine, server_of, stage

SCENE = Path(__file__).with_name("egress_scene.py")
TESTS = Path(__file__).parents[1]
CONNECT = re.compile(r'connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?"([0-9a-f.:]+)"')


def permitted(*words) -> bool:
    """Whether such a command may be run here."""
    return which(words[0]) is not None and subprocess.run([*words, "true"], capture_output=True).returncode == 0


def test_no_connection_to_a_partner_is_made_for_a_label_whatever_fails(tmp_path):
    apart, traced = ["unshare", "-rn"], ["strace", "-f", "-qq", "-e", "trace=connect", "-o", str(tmp_path / "calls")]
    words = [sys.executable, str(SCENE)]
    if permitted(*apart):
        words = [*apart, *words, "--namespace"]
    elif sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    is_traced = permitted(*traced)
    if is_traced:
        words = [*traced, *words]
    path = os.pathsep.join([str(TESTS), *sys.path])

    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = Counter(found["statuses"])
    assert counts[200] > 20  # it was answered where it may be
    assert counts[503] > 4
    assert counts[429] > 4  # the queue was full, with a partner that had room
    assert found["hedged"] >= 1
    assert found["partner"] == 0
    assert found["stopped"] == 0
    assert found["control"] == [200, "partner", 1]  # and would have been seen
    if is_traced:
        calls = Counter(address for _, address in CONNECT.findall((tmp_path / "calls").read_text()))
        assert calls.pop("127.9.9.9") == 1  # the control's
        assert set(calls) == {"127.0.0.1"}
        assert calls["127.0.0.1"] > 50


def test_a_name_that_is_given_anew_takes_no_connection_of_the_one_before():
    """What was a partner's is now an own server's name: no byte may go over the connection that was kept."""

    async def run():
        partner, own = Engine("partner"), Engine("own")
        async with stage([partner, own], partner={"tier": Tier.PARTNER}) as s:
            body = {"model": "small", "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}
            s.relay.pool.leave("own")
            open_to_all = await s.ask(body, headers={"x-fleetmill-label": Label.OPEN.name.lower()})
            s.relay.pool.leave("partner")
            s.relay.pool.join(server_of(own, name="partner"))
            premises = await s.ask(body, headers={"x-fleetmill-label": "premises"})
            return open_to_all[0], premises[0], len(partner.seen), len(own.seen)

    assert uvloop.run(run()) == (200, 200, 1, 1)
