"""A language model's folder through ONNX Runtime GenAI: ids in, ids and text out, one after another, on this machine.

The folder holds ``genai_config.json``, its graph, ``tokenizer.json`` and ``tokenizer_config.json``. Nothing is fetched.
Marks of the tokenizer (``<|end|>``) are read out of the chat template alone, never out of what somebody wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime_genai as og

from fleetmill.core.errors import EngineError, IntegrityError, InvalidInputError

MOST_TOKENS = 1024  # of an answer, where nobody says less
_HELD = re.compile("\ue000(\\d+)\ue001")  # where a message's content stands while the template is filled in
_COPIES = 2  # of the weights, at most, while they are loaded

OnToken = Callable[[int, str], bool]  # an id and the text that it completes; False: stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """How the next id is chosen. By default the likeliest."""

    temperature: float = 0.0  # 0: always the likeliest
    top_p: float = 1.0
    top_k: int = 0  # 0: any
    seed: int | None = None


LIKELIEST = Chance()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was said."""

    ids: tuple[int, ...]  # without the mark that ended it
    text: str
    ended: Literal["stop", "length", "cut"]  # its own end, no tokens left, `on_token` said so
    sure: float  # how likely the model thought all of it, its end included: a product of probabilities


class Genai:
    """A loaded model. `generate` may be called by several threads at once."""

    def __init__(self, folder: Path, *, memory_bytes: int | None = None) -> None:
        """Load the model of `folder`. `memory_bytes`: it is refused unless it fits into that.

        Raises:
            IntegrityError: the folder holds no such model.
            EngineError: it would need more memory than is allowed.
        """
        config = _config(folder)
        self.context, self.vocabulary = int(config["context_length"]), int(config["vocab_size"])
        self.memory_bytes = _memory(folder, config)
        if memory_bytes is not None and self.memory_bytes > memory_bytes:
            raise EngineError(
                f"{folder.name}: needs up to {self.memory_bytes:,} bytes of memory, {memory_bytes:,} are allowed. "
                "Give it more or release a smaller model"
            )
        try:
            self._model = og.Model(str(folder))
            self._tokenizer = og.Tokenizer(self._model)
        except RuntimeError as error:
            raise IntegrityError(f"{folder.name}: no model that GenAI can load ({_first_line(error)})") from error
        self._ends = {int(i) for i in self._tokenizer.eos_token_ids}
        marks = _marks(folder)
        self._marks = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True)))) if marks else None

    def ids_of(self, text: str) -> list[int]:
        """Somebody's text as ids; no part of it is read as a mark."""
        found: list[int] = []
        for part in self._harmless(text):
            found += map(int, self._tokenizer.encode(part))
        return found

    def ids_of_chat(self, messages: Sequence[Mapping[str, str]], *, goes_on: bool = False) -> list[int]:
        """A conversation as ids, by the model's own template, up to where the assistant begins to speak.

        `goes_on`: the last message is the beginning of the answer, and what is generated goes on from its last letter.

        Raises:
            InvalidInputError: the template refuses these messages.
        """
        held = [{"role": m["role"], "content": f"\ue000{n}\ue001"} for n, m in enumerate(messages)]
        try:
            filled = self._tokenizer.apply_chat_template(json.dumps(held), add_generation_prompt=not goes_on)
        except RuntimeError as error:
            raise InvalidInputError(
                f"the model's chat template refuses these messages ({_first_line(error)})"
            ) from None
        parts = _HELD.split(filled)
        found: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                found += self.ids_of(messages[int(part)]["content"])
                if goes_on and int(part) == len(messages) - 1:
                    break
            elif part:
                found += map(int, self._tokenizer.encode(part))
        return found

    def text_of(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        return str(self._tokenizer.decode(np.asarray(ids, np.int32))) if ids else ""

    def generate(
        self,
        ids: Sequence[int],
        *,
        most: int = MOST_TOKENS,
        chance: Chance = LIKELIEST,
        on_token: OnToken = lambda token, text: True,
    ) -> Answer:
        """What the model says after `ids`, at most `most` tokens and never beyond its context.

        Raises:
            InvalidInputError: `ids` are none, or leave no room in the context.
            EngineError: the engine failed; the cause is chained.
        """
        if not 0 < len(ids) < self.context:
            raise InvalidInputError(
                f"{len(ids)} tokens were given; 1 to {self.context - 1} fit into the model's context"
            )
        most = min(most, self.context - len(ids))
        said: list[int] = []
        text: list[str] = []
        sure, ended = 1.0, "length"
        try:
            for token, likely, part in self._steps(ids, most, chance):
                sure *= likely
                if token in self._ends:
                    ended = "stop"
                    break
                said.append(token)
                text.append(part)
                if not on_token(token, part):
                    ended = "cut"
                    break
        except RuntimeError as error:
            raise EngineError(f"GenAI failed after {len(said)} tokens: {_first_line(error)}") from error
        return Answer(ids=tuple(said), text="".join(text), ended=ended, sure=sure)  # type: ignore[arg-type]

    def _steps(self, ids: Sequence[int], most: int, chance: Chance) -> Iterator[tuple[int, float, str]]:
        params = og.GeneratorParams(self._model)
        options: dict[str, Any] = {"max_length": len(ids) + most, "do_sample": chance.temperature > 0}
        if chance.temperature > 0:
            options |= {"temperature": chance.temperature, "top_p": chance.top_p}
            options |= {"top_k": chance.top_k} if chance.top_k else {}
            options |= {} if chance.seed is None else {"random_seed": chance.seed}
        params.set_search_options(**options)
        generator, stream = og.Generator(self._model, params), self._tokenizer.create_stream()
        generator.append_tokens(np.asarray(ids, np.int32))
        for _ in range(most):
            logits = np.asarray(generator.get_logits(), np.float64).reshape(-1)
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            likely = float(1.0 / np.exp(logits - logits[token]).sum())
            yield token, likely, "" if token in self._ends else str(stream.decode(token))

    def _harmless(self, text: str) -> Iterator[str]:
        """The text in parts, so that a mark that somebody typed falls in two."""
        at = 0
        for mark in self._marks.finditer(text) if self._marks is not None else ():
            yield text[at : mark.start() + 1]
            at = mark.start() + 1
        if text[at:]:
            yield text[at:]


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "genai_config.json").read_bytes())["model"]
        return {"context_length": found["context_length"], "vocab_size": found["vocab_size"], **found["decoder"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder.name}: no model folder, genai_config.json cannot be read ({error})") from error


def _memory(folder: Path, config: Mapping[str, Any]) -> int:
    """An upper bound of the bytes: the weights while they load, and what is kept of a full context."""
    graph = str(config["filename"])
    weights = sum(p.stat().st_size for p in folder.iterdir() if p.is_file() and p.name.startswith(graph))
    kept = 2 * int(config["num_hidden_layers"]) * int(config["num_key_value_heads"]) * int(config["head_size"])
    return _COPIES * weights + 2 * 4 * kept * int(config["context_length"])


def _marks(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / "tokenizer.json").read_bytes()).get("added_tokens", [])
        return [str(mark["content"]) for mark in found if mark.get("special")]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{folder.name}: tokenizer.json cannot be read ({error})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
