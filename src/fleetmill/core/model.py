"""A run and the model version that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import digest
from fleetmill.core.plain import plain

BASE_FILE = "base.json"  # of a model that came from a base: that one's digest
Value = Any  # float, int, str or bool: a setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training: everything that decided its result."""

    line: str
    line_version: int
    dataset: str
    parent: str  # digest of the model that it went on from; "": from nothing
    seed: int
    settings: Mapping[str, Value]
    code: str  # revision of the code
    command: str = ""  # digest of a training command's words; "": the line trains in a function
    environment: str = ""  # digest of the image or environment that the command runs in; "": nobody named it
    base: str = ""  # digest of the model that the owner brought and that all of this began from; "": there is none

    @property
    def key(self) -> str:
        """Equal runs have equal keys; the code revision is a receipt, not part of the key."""
        return digest({k: v for k, v in self.record.items() if k != "code"})

    @property
    def record(self) -> dict[str, Any]:
        """As the ledger holds it: without the fields of a command or a base where there is none, as before them."""
        return {k: v for k, v in plain(self).items() if v or k not in ("command", "environment", "base")}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A manifest of files; its digest is the digest of {file name: digest}."""

    line: str
    files: Mapping[str, str]
    run: str = ""  # key of the run that made it; "": trained elsewhere
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the trainer said last

    @property
    def digest(self) -> str:
        """Names the model by its files."""
        return digest(dict(self.files))
