"""What can go wrong, as a tree that follows the caller's decision.

```
FleetmillError
├── NotFoundError            no such device, recording, dataset, model or release
├── ConflictError            it exists with other content, or its state does not allow this
├── InvalidInputError        what came from outside is refused: names the field, the value and the rule
│   └── TooNewError          written by a newer version than this one
├── IntegrityError           length, digest or signature is wrong: never retried, always reported
│   └── TrustError           expired, rolled back, or not signed by enough keys
├── LineError                a production line breaks its contract
├── EngineError              an engine failed; the cause is chained
│   └── EngineMissingError   says which extra to install
└── UnavailableError         network or disk did not answer: the only kind that is retried, in one place
```

Each error is one line made of facts: what, where, what was expected, what was found, what to do.
``exit_code`` is what the command line ends with.
"""

from __future__ import annotations


class FleetmillError(Exception):
    """Root of everything that this product raises on purpose."""

    exit_code = 1


_EXTRAS = {  # which extra brings a library that may be missing; what is not named comes with the factory
    **dict.fromkeys(("torch", "onnx", "safetensors"), "train"),
    **dict.fromkeys(("gymnasium", "gymnasium_robotics", "mujoco", "Box2D", "pygame"), "sim"),
    **dict.fromkeys(("matplotlib", "PIL"), "web"),
    **dict.fromkeys(("tokenizers", "onnxruntime_genai"), "llm"),
    "hypothesis": "testing",
}


def last_words(error: BaseException) -> tuple[str, int]:
    """(one line, exit code) with which a process ends that met `error`: what its edge prints instead of a traceback."""
    if isinstance(error, FleetmillError):
        return " ".join(str(error).split("\n")), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name:
        library = error.name.partition(".")[0]
        return last_words(EngineMissingError(library, extra=_EXTRAS.get(library, "factory")))
    if isinstance(error, OSError):
        return f"{error.filename or 'disk'}: {error.strerror}. Check space and permissions", UnavailableError.exit_code
    kind = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"internal error: {kind}. Run again with FLEETMILL_DEBUG=1 and report it", FleetmillError.exit_code


class NotFoundError(FleetmillError):
    """No such device, recording, dataset, model or release."""

    exit_code = 2


class ConflictError(FleetmillError):
    """It exists with other content, or its state does not allow this."""

    exit_code = 2


class InvalidInputError(FleetmillError):
    """What came from outside is refused; the message names the field, the value and the rule."""

    exit_code = 2


class TooNewError(InvalidInputError):
    """Something was written by a newer version than this one."""

    def __init__(self, where: str, *, found: int, newest_known: int) -> None:
        self.where, self.found, self.newest_known = where, found, newest_known
        super().__init__(
            f"{where}: format {found}, this version reads up to {newest_known}. Update fleetmill, then try again."
        )


class IntegrityError(FleetmillError):
    """A length, digest or signature is wrong. Never retried, always reported."""

    exit_code = 3


class TrustError(IntegrityError):
    """Signed metadata is expired, rolled back, or not signed by enough of the right keys."""


class LineError(FleetmillError):
    """A production line breaks its contract."""

    exit_code = 2


class EngineError(FleetmillError):
    """An engine failed; the cause is chained."""

    exit_code = 1


class EngineMissingError(EngineError):
    """A library that this needs is not installed; the message says which extra to install."""

    exit_code = 2

    def __init__(self, what: str, *, extra: str) -> None:
        self.what, self.extra = what, extra
        super().__init__(f"{what} is not installed. Run: pip install 'fleetmill[{extra}]'")


class UnavailableError(FleetmillError):
    """Network or disk did not answer. The only kind that is retried, and in one place."""

    exit_code = 4
