"""An OpenAI API around ONNX Runtime GenAI, which has no server of its own. Run as a module:

    python -m fleetmill.serve.shell_genai --model FOLDER --port 8091 [--name NAME] [--at-once 2] [--waiting 16]

It speaks `/v1/chat/completions`, `/v1/completions` (whole and in pieces), `/v1/models`, `/health` and `/metrics`. An
answer that broke off goes on: `continue_final_message` in a chat, in a completion the text (or the ids) so far as a
prompt. With `return_token_ids` each piece carries its ids, so that going on is exact to the token. What cannot be done
(tools, log probabilities, several answers) is refused. Nothing of what is asked or answered is written anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import orjson

from fleetmill.core.errors import EngineError, FleetmillError, InvalidInputError
from fleetmill.engines.genai import Answer, Genai
from fleetmill.serve import shell_words, words
from fleetmill.serve.http import Reply, Request
from fleetmill.serve.run import answer, listening, run, signals
from fleetmill.serve.shell_words import Asked, Held, Piece
from fleetmill.serve.stream import CHAT, COMPLETIONS, DONE, broken_off

_RETRY = b"retry-after: 1\r\n"


class Shell:
    """Answers requests with one model. `at_once` answers are made at a time, `waiting` more may wait."""

    def __init__(self, model: Genai, name: str, *, at_once: int = 2, waiting: int = 16) -> None:
        self._model, self._name, self._most = model, name, at_once + waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="genai")
        self._at_once, self._open, self._tokens = at_once, 0, 0

    def close(self) -> None:
        """When nothing is being answered any more."""
        self._threads.shutdown(cancel_futures=True)

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request; see `serve.http.Connection`."""
        path = request.path.partition("?")[0]
        if request.method == "GET" and path in ("/health", "/v1/models", "/metrics"):
            reply.whole(200, self._told(path), kind=b"text/plain" if path == "/metrics" else b"application/json")
        elif request.method != "POST" or path not in (CHAT, COMPLETIONS):
            _refuse(reply, 404, f"{request.method} {path} is not spoken here", "not_found")
        elif self._open >= self._most:
            _refuse(reply, 429, f"{self._open} answers are being made or waited for", "busy", more=_RETRY)
        else:
            self._open += 1
            try:
                await self._answer(path, request.body, reply)
            except InvalidInputError as error:
                _refuse(reply, 400, str(error), "invalid_request_error")
            except EngineError as error:
                _failed(reply, str(error))
            finally:
                self._open -= 1

    async def _answer(self, path: str, body: bytes, reply: Reply) -> None:
        asked = shell_words.understood(path, body, self._model, self._name)
        if not asked.streams:
            text = ""
            async for part in self._pieces(asked, reply):
                if isinstance(part, Answer):
                    reply.whole(200, shell_words.whole(asked, text, part))
                else:
                    text += part.text
            return
        reply.begin(200, kind=b"text/event-stream")
        if path == CHAT:
            reply.piece(shell_words.begun(asked))
        async for part in self._pieces(asked, reply):
            if isinstance(part, Answer):
                reply.piece(shell_words.ended(asked, part) + DONE)
            elif part.text or (asked.tells_ids and part.ids):
                reply.piece(shell_words.piece(asked, part))
            await reply.drained()
        reply.end()

    async def _pieces(self, asked: Asked, reply: Reply) -> AsyncIterator[Piece | Answer]:
        """Pieces as the model's thread makes them, then what it was all in all."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        held = Held(asked.stops)

        def on_token(token: int, text: str) -> bool:
            self._tokens += 1
            loop.call_soon_threadsafe(queue.put_nowait, held.take(token, text))
            return not (held.stopped or reply.is_gone)

        def work() -> Answer:
            return self._model.generate(asked.ids, most=asked.most, chance=asked.chance, on_token=on_token)

        making = loop.run_in_executor(self._threads, work)
        making.add_done_callback(lambda done: queue.put_nowait(None))
        while (part := await queue.get()) is not None:
            yield part
        done = await making
        if not held.stopped:
            yield held.rest()
        yield replace(done, ended="stop") if held.stopped else done

    def _told(self, path: str) -> bytes:
        if path == "/health":
            return b'{"status":"ok"}'
        if path == "/v1/models":
            model = {"id": self._name, "object": "model", "created": 0, "owned_by": "owner"}
            return orjson.dumps({"object": "list", "data": [model | {"max_model_len": self._model.context}]})
        running = min(self._open, self._at_once)
        return (
            f"genai_requests_running {running}\ngenai_requests_waiting {self._open - running}\n"
            f"genai_tokens_total {self._tokens}\n"
        ).encode()


def _refuse(reply: Reply, status: int, why: str, code: str, *, more: bytes = b"") -> None:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    if not reply.is_begun:
        reply.whole(status, words.error(why, kind=kind, code=code), more=more)


def _failed(reply: Reply, why: str) -> None:
    """The engine failed: an answer that has begun is broken off, not ended."""
    if not reply.is_begun:
        reply.whole(500, words.error(why, kind="server_error", code="engine"))
    else:
        reply.piece(broken_off(why))
        reply.abort()


async def serve(model: Genai, name: str, host: str, port: int, *, at_once: int, waiting: int) -> None:
    """Listen and answer until SIGTERM; the address is the first line of stdout."""
    shell, sock, stop = (
        Shell(model, name, at_once=at_once, waiting=waiting),
        listening(host, port, shared=False),
        asyncio.Event(),
    )
    sys.stdout.write(f"genai http://{host}:{sock.getsockname()[1]}\n")
    sys.stdout.flush()
    with signals(stop):
        await answer(sock, shell.handle, stop=stop)
    shell.close()


def main(words: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    said = argparse.ArgumentParser(prog="python -m fleetmill.serve.shell_genai")
    said.add_argument("--model", type=Path, required=True)
    said.add_argument("--name")
    said.add_argument("--host", default="127.0.0.1")
    said.add_argument("--port", type=int, default=8091)
    said.add_argument("--at-once", type=int, default=2)
    said.add_argument("--waiting", type=int, default=16)
    said.add_argument("--memory", type=int, help="bytes that the model may need")
    asked = said.parse_args(words)
    try:
        model = Genai(asked.model, memory_bytes=asked.memory)
        name, limits = asked.name or asked.model.name, {"at_once": asked.at_once, "waiting": asked.waiting}
        run(lambda: serve(model, name, asked.host, asked.port, **limits))
    except FleetmillError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
