"""A gateway, own servers that fail in every way, and a partner that counts who connects. Run apart: see `test_egress`.

What comes out, as JSON on stdout: per phase the statuses, and how often somebody connected to the partner.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import sys
from dataclasses import replace

from fleetmill.core.serve import Tier
from fleetmill.serve.http import Connection
from fleetmill.serve.words import Tenant
from simulated import Engine, Label, server_of, stage

PARTNER = "127.9.9.9"  # an address of its own, so that a trace of the process's calls shows it
CHAT = {"model": "small", "max_tokens": 12, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
FAULTS = ("die", "tear", "error", "short", "stall", "500")


def lift_loopback() -> None:
    """In a new namespace it is down."""
    with socket.socket() as sock:
        name = struct.pack("16sh", b"lo", 0x1 | 0x40)  # up, running
        fcntl.ioctl(sock, 0x8914, name)  # SIOCSIFFLAGS


class Counting(Connection):
    """The partner's side of a connection."""

    number = 0

    def connection_made(self, transport):
        Counting.number += 1
        super().connection_made(transport)


async def under_every_failure(s, premises) -> list[int]:
    """Statuses of requests with that label while own servers fail in every way, are full, late, gone."""
    own, found = s.engines, []
    for fault in FAULTS:
        for at in (0, 5):
            for engine in own:
                engine.faults = [(fault, at)] * 3
            found.append((await s.ask(CHAT, headers=premises))[0])
            found.append((await s.ask(CHAT | {"stream": False}, headers=premises))[0])
    for engine in own:
        engine.faults, engine.first = [], 0.08  # late: a second one is asked beside
    s.relay.pool.__init__(s.relay.pool.servers, clock=lambda: 0.0)
    for n in range(4):
        found.append((await s.ask(CHAT | {"user": str(n)}, headers=premises))[0])
    full = [s.ask(CHAT | {"user": str(n)}, headers=premises) for n in range(24)]  # more than all servers and the queue
    found += [status for status, _, _ in await asyncio.gather(*full)]
    found.append((await s.ask(CHAT, headers={**premises, "x-fleetmill-deadline-ms": "1"}))[0])
    talk = {"x-fleetmill-conversation": "c"}
    found.append((await s.ask(CHAT, headers=premises | talk))[0])
    found.append((await s.ask(CHAT, headers=talk))[0])  # without its label: the conversation has it
    said = CHAT | {"messages": [{"role": "user", "content": "mail a.b@example.org"}]}
    found.append((await s.ask(said))[0])  # a detector
    return found


async def main() -> None:
    loop, partner = asyncio.get_running_loop(), Engine("partner")
    tenant = Tenant(name="t", label=Label.OPEN, consent=True, detectors=("email",))
    listening = await loop.create_server(lambda: Counting(partner.handle, set()), PARTNER, 0)
    port = listening.sockets[0].getsockname()[1]
    gateway = {"hedge_share": 1.0, "waiting": 8, "wait_seconds": 2.0}
    small = {"capacity": 2}
    async with stage([Engine("a"), Engine("b")], tenant=tenant, gateway=gateway, a=small, b=small) as s:
        s.relay.pool.join(
            replace(
                server_of(partner),
                name="partner",
                tier=Tier.PARTNER,
                address=f"http://{PARTNER}:{port}",
                capacity=64,
            )
        )
        statuses = await under_every_failure(s, {"x-fleetmill-label": "premises"})
        kept = [s.relay.pool.server(name) for name in "ab"]
        s.relay.pool.__init__(
            [replace(k, address="http://127.0.0.1:9") for k in kept] + [s.relay.pool.server("partner")],
            clock=lambda: 0.0,
        )
        statuses += [(await s.ask(CHAT, headers={"x-fleetmill-label": "premises"}))[0] for _ in range(4)]  # all gone
        before, hedged, stopped = Counting.number, s.relay.hedged, s.relay.egress.refused
        status, headers, _ = await s.ask(CHAT, headers={"x-fleetmill-label": "open"})
        control = [status, headers.get("x-fleetmill-server"), Counting.number]
    listening.close()
    found = {"statuses": statuses, "partner": before, "hedged": hedged, "stopped": stopped, "control": control}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    if "--namespace" in sys.argv:
        lift_loopback()
    asyncio.run(main())
