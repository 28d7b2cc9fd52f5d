"""Engines that serve language models: what the gateway must know of each kind. Pure: an adapter opens nothing.

An adapter knows how a server of its kind is started, which paths say what it serves and how busy it is, and how the
answers are read. Who asks the server is `serve/probe.py`, through the one door for sockets. A server of a kind that
nobody knows is refused by name; one that answers otherwise than its kind does is an `InvalidInputError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fleetmill.core.serve import Load, Served


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a server shall serve, and where."""

    model: str  # path of a file or folder; for `onnx` and `coreml` a home
    name: str = ""  # under which clients ask for it; "": as the engine says
    host: str = "127.0.0.1"
    port: int = 8080
    context: int = 0  # tokens per answer, prompt included; 0: the engine's own
    at_once: int = 0  # answers side by side; 0: the engine's own
    more: tuple[str, ...] = ()  # further words, as the engine takes them


class ServingEngine(Protocol):
    """One kind of server. `goes_on`: whether it takes a begun answer as the beginning of its own."""

    @property
    def name(self) -> str: ...
    @property
    def health(self) -> str: ...  # path; below 500 is up. "": never asked
    @property
    def told(self) -> tuple[str, ...]: ...  # paths that say what it serves; "" is none
    @property
    def metrics(self) -> str: ...  # path; "": it has none
    @property
    def goes_on(self) -> bool: ...  # with `continue_final_message`, as vLLM named it
    @property
    def capabilities(self) -> frozenset[str]: ...  # of each of its models, unless it says otherwise

    def start(self, asked: Start) -> tuple[str, ...]:
        """The words of the command that starts it.

        Raises:
            InvalidInputError: this kind cannot be started so.
        """
        ...

    def models(self, answers: Mapping[str, bytes]) -> dict[str, Served]:
        """What it serves, by name; `answers`: bodies by path, of those paths of `told` that answered 200.

        Raises:
            InvalidInputError: no server of this kind says that.
        """
        ...

    def load(self, body: bytes) -> Load:
        """How busy it is, of the answer at `metrics`.

        Raises:
            InvalidInputError: no server of this kind says that.
        """
        ...
