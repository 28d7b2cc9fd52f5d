"""How long a real engine takes, measured and fitted: ONNX Runtime GenAI with the large model of the line `language`.

    python bench/engine_times.py [--seconds 25]

Random prompts of 8 to 190 ids and answers of 4 to 56, 1, 2 and 4 at once; half of the requests are fitted, the other
half is what the fit is held against; half of them ask for one token. The fit, per number of answers at once n: first
token = a(n) + b(n) * prompt ids; each further one = d(n) + e(n) * ids before it. Between the loads it is interpolated.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from fleetmill.core.line import Stretch, TrainJob
from fleetmill.lines.language import line
from fleetmill.lines.language.conversations import cut
from fleetmill.lines.language.importing import chats
from fleetmill.lines.language.sample import shops
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held

LOADS = (1, 2, 4)
CONTEXT = 250  # of the model's 256


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One answer of the real engine."""

    at_once: int
    prompt: int
    tokens: int
    whole: float  # seconds


@dataclass(frozen=True, kw_only=True)
class Times:
    """The fit: for each of `LOADS` the seconds (first, per prompt id, per further token, per id before it)."""

    at: tuple[tuple[float, float, float, float], ...]

    def at_load(self, n: float) -> tuple[float, float, float, float]:
        """Between the measured loads in a line, beyond the last in proportion."""
        table = np.array(self.at)
        if n > LOADS[-1]:
            return tuple(table[-1] * n / LOADS[-1])  # type: ignore[return-value]
        return tuple(float(np.interp(n, LOADS, table[:, k])) for k in range(4))  # type: ignore[return-value]

    def first(self, n: float, prompt: int) -> float:
        """Seconds to the first token."""
        a, b, _, _ = self.at_load(n)
        return a + b * prompt

    def whole(self, n: float, prompt: int, tokens: int) -> float:
        """Seconds to the last."""
        _, _, d, e = self.at_load(n)
        return self.first(n, prompt) + sum(d + e * (prompt + k) for k in range(1, tokens))


class _Chats:
    def names(self) -> Sequence[str]:
        return ["shop.jsonl"]

    def read(self, name: str) -> bytes:  # noqa: ARG002
        return b"".join(shops(5)["shop-0.jsonl"].splitlines(keepends=True)[:256])


def train(folder: Path, *, size: str = "large", steps: int = 12) -> None:
    """A model that learned next to nothing: its times are those of a good one."""
    found = [
        e
        for f in chats.read(_Chats())
        for e in cut(Stretch(device="d", session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]
    job = TrainJob(data=Held(found), parent=None, seed=10, settings={"steps": steps, "size": size})
    for name, data in line.train(job, Notes()).items():
        (folder / name).write_bytes(data)


async def ask(port: int, prompt: Sequence[int], most: int, at_once: int) -> Seen:
    """One answer at once, timed: pieces come from the engine's threads in bursts, and would time those."""
    body = orjson.dumps({"model": "lm", "max_tokens": most, "prompt": list(prompt), "temperature": 0})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    answer = await reader.read()
    seconds = time.monotonic() - began
    writer.close()
    if b" 200 " not in answer[:16]:
        raise SystemExit(f"the engine said {answer!r}")
    tokens = orjson.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"]
    return Seen(at_once=at_once, prompt=len(prompt), tokens=max(tokens, 1), whole=seconds)


async def measure(port: int, seconds: float) -> list[Seen]:
    """So long over all loads."""
    chance, found = random.Random(11), []
    for at_once in LOADS:
        until = time.monotonic() + seconds / len(LOADS)

        async def client(until: float = until, at_once: int = at_once) -> None:
            while time.monotonic() < until:
                size, most = chance.randrange(8, 190), chance.choice((1, chance.randrange(2, 56)))
                prompt = [chance.randrange(65, 120) for _ in range(size)]
                found.append(await ask(port, prompt, min(most, CONTEXT - size), at_once))

        await asyncio.gather(*(client() for _ in range(at_once)))
    return found


def fit(seen: Sequence[Seen]) -> Times:
    """Least squares of relative errors, per load; nothing below 0."""
    return Times(at=tuple(_fit([s for s in seen if s.at_once == n]) for n in LOADS))


def _fit(seen: Sequence[Seen]) -> tuple[float, float, float, float]:
    y = np.array([s.whole for s in seen])
    x = np.array([[1.0, s.prompt, s.tokens - 1.0, sum(s.prompt + k for k in range(1, s.tokens))] for s in seen])
    found = np.zeros(4)
    for _ in range(3):  # what is far off is other people's work on this machine
        kept = [True] * 4
        while True:  # what comes out below 0 is none
            found[:] = 0.0
            found[kept], *_ = np.linalg.lstsq(x[:, kept] / y[:, None], np.ones_like(y), rcond=None)
            if found.min() >= 0.0:
                break
            kept[int(found.argmin())] = False
        off = np.abs(x @ found / y - 1.0)
        keep = off <= max(3 * float(np.median(off)), 0.05)
        x, y = x[keep], y[keep]
    return tuple(map(float, found))  # type: ignore[return-value]


def errors(times: Times, held: Sequence[Seen]) -> dict[str, float]:
    """On requests that were not fitted: the median of the relative errors, and the relative error of the sum."""
    found = {}
    for name, some in (("one token", [s for s in held if s.tokens == 1]), ("all", held)):
        pair = np.array([[times.whole(s.at_once, s.prompt, s.tokens), s.whole] for s in some])
        found[f"{name}, median"] = float(np.median(np.abs(pair[:, 0] / pair[:, 1] - 1)))
        found[f"{name}, sum"] = float(abs(pair[:, 0].sum() / pair[:, 1].sum() - 1))
    return found


def measured(seconds: float = 25.0) -> Times:
    """Train, serve, measure, fit; prints what came of it."""
    with tempfile.TemporaryDirectory() as name:
        train(Path(name))
        words = [sys.executable, "-m", "fleetmill.serve.shell_genai", "--model", name, "--name", "lm", "--port", "0"]
        engine = subprocess.Popen([*words, "--at-once", str(LOADS[-1])], stdout=subprocess.PIPE, text=True)
        try:
            assert engine.stdout is not None
            port = int(engine.stdout.readline().rsplit(":", 1)[1].strip().strip("/"))
            asyncio.run(measure(port, 1.0))
            seen = asyncio.run(measure(port, seconds))
        finally:
            engine.terminate()
            engine.wait()
    times = fit(seen[::2])
    what = "n at once: first token + per prompt id, others + per id before"
    print(f"ONNX Runtime GenAI, {len(seen)} answers; {what}")
    for n, (a, b, d, e) in zip(LOADS, times.at, strict=True):
        print(f"  n={n}: {a * 1e3:.2f} ms + {b * 1e6:.1f} us, {d * 1e3:.2f} ms + {e * 1e6:.2f} us")
    off = errors(times, seen[1::2])
    print(f"  off on the {len(seen[1::2])} not fitted: " + ", ".join(f"{n} {v:.1%}" for n, v in off.items()))
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=25.0)
    print(orjson.dumps(asdict(measured(parser.parse_args().seconds))).decode())
