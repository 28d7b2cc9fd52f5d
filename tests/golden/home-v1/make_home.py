"""How `home.tar.xz` was made, with version 0.1 on the path: ``PYTHONPATH=<0.1>/src python make_home.py FOLDER``."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tarfile
import time
from pathlib import Path

from fleetmill import loop
from fleetmill.api.door import make_app
from fleetmill.core.ids import sha256
from fleetmill.device.agent import open_agent
from fleetmill.device.enrolment import Token, enrol, read_token
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports, roll
from fleetmill.settings import read_settings
from fleetmill.testing import in_process, tiny_file, tiny_line

SETTINGS = """# Written for version 0.1.
poll_seconds = 0.0
port = 8787

[lines.tiny]
sessions = 2
deadline_seconds = 7200.0

[lines.tiny.first_campaign]
scenario = "default"
seconds = 3.0
budget_ratio = 1.0

[lines.tiny.campaign]
scenario = "field"
seconds = 6.0
budget_ratio = 0.35
"""
FACTORY = "http://factory"
CARRIED = ("user-agent", "accept", "accept-encoding", "connection")
DEVICES = ("d0", "d1", "d2")


def live(out, settings):
    """Two rounds of the fleet, the second without d2; one turn between them; an import. The tokens."""
    with open_home(settings) as home, in_process(make_app(home, find=lambda name: tiny_line)) as client:
        root, tokens = sha256(home.repository.root()), {}
        for name in (*DEVICES, "d3"):
            token = Token(name=name, secret=roll.invite(home.ledger, name, line="tiny"), root_sha256=root)
            tokens[name] = read_token(token.text())
        for name in DEVICES:
            enrol(out / name, tokens[name], factory=FACTORY, hardware="cpu", client=client)
        loop.start(home, tiny_line)
        for living in (DEVICES, DEVICES[:2]):
            for name in living:
                with open_agent(out / name, tiny_line, client=client) as agent:
                    agent.once()
            if living == DEVICES:
                loop.turn(home, tiny_line)
        (out / "in").mkdir()
        (out / "in" / "s30.tiny.json").write_bytes(tiny_file(30))
        imports.import_path(home.ledger, home.books, home.blobs, tiny_line, out / "in", device="imported")
        assert home.books.faults() == home.books.verify() == []
        return tokens


def asked_next(out, settings, tokens):
    """What d2 and d3 ask when they are let, request by request."""
    asked = []
    with open_home(settings) as home, in_process(make_app(home, find=lambda name: tiny_line)) as client:
        answer_to = client._transport.handle_request

        def note(request):
            request.read()
            answer, path = answer_to(request), request.url.raw_path.decode()
            if not path.startswith(("/v1/repository", "/v1/wait")):
                asked.append(
                    {
                        "method": request.method,
                        "path": path,
                        "headers": {k: v for k, v in request.headers.items() if k not in CARRIED},
                        "body": base64.b64encode(request.content).decode(),
                        "status": answer.status_code,
                    }
                )
            return answer

        client._transport.handle_request = note
        at = time.time()
        with open_agent(out / "d2", tiny_line, client=client) as agent:
            agent.once()
        client.auth = None
        enrol(out / "d3", tokens["d3"], factory=FACTORY, hardware="cpu", client=client)
    return {"at_seconds": at, "requests": asked}


def nobodys(info):
    """Without the one who made it."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def main(out):
    """Live, keep a copy, note what is asked next, pack the copy."""
    (out / "home").mkdir(parents=True)
    (out / "home" / "fleetmill.toml").write_text(SETTINGS)
    settings = read_settings(home=out / "home")
    init_home(settings, now_ns=time.time_ns())
    tokens, kept = live(out, settings), out / "kept"
    for name in ("home", *DEVICES):
        shutil.copytree(out / name, kept / name)
    (kept / "requests.json").write_text(json.dumps(asked_next(out, settings, tokens), indent=1))
    for left in [*kept.rglob("lock"), *kept.rglob(".lock"), *kept.rglob("home.lock")]:
        left.unlink()
    with tarfile.open(out / "home.tar.xz", "w:xz") as archive:
        for path in sorted(kept.iterdir()):
            archive.add(path, arcname=path.name, filter=nobodys)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
