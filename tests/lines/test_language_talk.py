"""How people speak with the line `language`: ids without a tokenizer, rows, who may teach, and planted faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill.core.line import Message, Stretch, TrainJob
from fleetmill.core.serve import Tier
from fleetmill.core.talk import Limits, Said, Source, whole
from fleetmill.device.speaking import speak
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.receive.imports import read_sessions
from fleetmill.seams.runtime import RunningPolicy, policies
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held
from fleetmill.testing.talks import faults

pytest.importorskip("tokenizers", reason="needs the extra `llm`")

from fleetmill.lines.language import line
from fleetmill.lines.language.conversations import PERIOD_NS, conversations, cut, ids, is_own, left_out, messages
from fleetmill.lines.language.judging import answers, everything
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.language.practice import pairs, told
from fleetmill.lines.language.questions import asks
from fleetmill.lines.language.sample import bills
from fleetmill.lines.language.sums import sums, worth
from fleetmill.lines.language.talking import begins, right, rows, turns
from fleetmill.lines.vocabulary import ASSISTANT

talk = line.talk
assert talk is not None
START_NS = 1_800_000_000_000_000_000
OWN = Source(tier=Tier.PREMISES, may_train=False, sure=0.25)
SUMS = [("3+4", "7"), ("12-5", "7"), ("2*6", "12"), ("9/3", "3")]


def stretch(said: list[tuple[Said, bool, Source | None]]) -> Stretch:
    """Turns as a device records them."""
    frames = [row for turn, first, source in said for row in rows(turn, first, source)]
    found = [
        Message(topic=name, log_time_ns=at, publish_time_ns=at, value={"data": value})
        for at, frame in ((START_NS + n * PERIOD_NS, frame) for n, frame in enumerate(frames))
        for name, value in frame.items()
    ]
    return Stretch(device="d", session="s", index=0, tags={}, messages=found)


def asked(question: str, answer: str, source: Source) -> list[tuple[Said, bool, Source | None]]:
    return [(Said(role="user", text=question), True, None), (Said(role="assistant", text=answer), False, source)]


@pytest.fixture(scope="module")
def policy() -> RunningPolicy:
    """A tiny model that learned four sums by heart."""
    chats = [told(*SUMS[n % 4]) for n in range(40)]
    episodes = list(
        cut(Stretch(device="d", session="s", index=0, tags={}, messages=list(messages(chats, start_ns=START_NS))))
    )
    how = {"steps": 60, "size": "tiny", "texts": 1, "sums": 16, "practice": 0.0}
    made = line.train(TrainJob(data=Held(episodes), parent=None, seed=3, settings=how), Notes())  # type: ignore[operator]
    return policies(line, OnnxRuntime(), made)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("ab1 \n\r\t'sSTrevml.,=<>é²Ⅷ☂\u2003\x1c", max_size=60)))
def test_plain_python_finds_the_ids_that_the_tokenizer_finds(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert OURS.spell(text) == OURS.encode([text])[0]


def test_the_model_reads_a_question_as_it_learned_it() -> None:
    said = [Said(role="user", text="12+7="), Said(role="assistant", text="19"), Said(role="user", text="it's?")]
    recorded = conversations(
        *(np.stack([np.asarray(f[name]) for t in said for f in rows(t, False, None)]) for name in ("text", "role")),
        np.array([1, 0, 0], np.uint8),
    )
    assert talk.ids(said) == [*ids(recorded, OURS)[0], ASSISTANT]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=400), min_size=1, max_size=4))
def test_turns_come_out_of_their_rows(texts: list[str]) -> None:
    clean = [t.replace("\0", "").encode("utf-8", "ignore").decode() for t in texts]
    said = [Said(role=("user", "assistant")[n % 2], text=t) for n, t in enumerate(clean)]  # type: ignore[arg-type]
    frames = [row for n, turn in enumerate(said) for row in rows(turn, n == 0, OWN if n % 2 else None)]

    assert turns(frames) == said
    assert [n for n, frame in enumerate(frames) if begins(frame)] == [0]


def test_a_device_answers_and_is_sure_as_the_judge_finds(policy: RunningPolicy) -> None:
    expressions = [e for e, _ in SUMS]
    texts, sure = answers(policy, expressions, OURS)
    for expression, text, how_sure in zip(expressions, texts, sure, strict=True):
        said = speak(talk, policy, [Said(role="user", text=f"{expression}=")], talk.limits)
        assert (said.text, said.ended) == (text, "stop")
        assert said.sure == pytest.approx(how_sure, rel=1e-4)


def test_an_answer_ends_where_its_limits_say(policy: RunningPolicy) -> None:
    said = speak(talk, policy, [Said(role="user", text="2*6=")], Limits(sure=0.5, tokens=1))
    assert (said.ended, len(said.text)) == ("length", 1)


def test_right_is_told_by_rule_and_only_of_sums() -> None:
    assert (right("48/2=", "24"), right("48/2=", "25"), right("48/2", "24"), right("x=", "1")) == (
        True,
        False,
        None,
        None,
    )
    assert whole([]) == 1.0


# -- who may teach ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [Tier.ATTESTED, Tier.PARTNER])
def test_a_partner_s_answer_is_left_out_with_its_reason_and_what_stands_around_it_is_not(tier: Tier) -> None:
    source = Source(tier=tier, may_train=False, sure=0.1)
    made = stretch([*asked("1+1=", "2", OWN), *asked("2+2=", "CANARY", source), *asked("3+3=", "6", OWN)])

    found = [
        t.text for e in cut(made) for c in conversations(*(e.columns[n] for n in ("text", "role", "first"))) for t in c
    ]
    assert found == ["1+1=", "2", "2+2=", "3+3=", "6"]
    assert list(left_out(made)) == [(START_NS + 3 * PERIOD_NS, START_NS + 4 * PERIOD_NS, "partner_terms")]
    assert list(left_out(stretch(asked("2+2=", "4", replace(source, may_train=True))))) == []


def test_what_is_left_out_at_the_end_lasts_as_long_as_its_row() -> None:
    made = stretch(asked("2+2=", "4" * 300, Source(tier=Tier.PARTNER, may_train=False, sure=0.1)))
    assert list(left_out(made)) == [(START_NS + PERIOD_NS, START_NS + 3 * PERIOD_NS, "partner_terms")]


def test_a_device_does_not_teach_itself() -> None:
    own = Source(tier=Tier.DEVICE, may_train=False, sure=0.99)
    (episode,) = cut(stretch([*asked("1+1=", "3", own), *asked("2+2=", "4", OWN)]))

    assert is_own(*(episode.columns[name] for name in ("role", "first", "tier"))) == [True, False]
    assert [c[1].text for c in everything(Held([episode]))] == ["3", "4"]
    assert [c[1].text for c in everything(Held([episode]), teaches=True)] == ["4"]


# -- what the demo's people ask ---------------------------------------------------------------------------------------


def test_people_ask_the_sums_of_a_session_and_the_report_knows_what_is_right(tmp_path: Any) -> None:
    made = b"".join(bills(3)["bills.jsonl"].splitlines(keepends=True)[:32])
    (tmp_path / "bills.jsonl").write_bytes(made)
    (recorded,) = read_sessions(tmp_path, line)
    known = sums(made.decode())

    whole_ = replace(recorded, messages=iter(list(recorded.messages)))
    answered = asks(whole_, True)
    held = list(answered.messages)
    questions = asks(replace(answered, messages=iter(held)), False)

    def said(found: list[Message]) -> list[Any]:
        (e,) = cut(Stretch(device="d", session="s", index=0, tags={}, messages=found))
        return conversations(*(e.columns[n] for n in ("text", "role", "first")))

    assert [pairs(c)[0] for c in said(held)] == known
    assert len(known) == 96
    assert [[t.text for t in c] for c in said(list(questions.messages))] == [[f"{e}="] for e, _ in known]
    assert questions.device == answered.device
    assert all(worth(e) is not None for e, _ in known)


# -- planted faults ---------------------------------------------------------------------------------------------------


def _forgets(stretch_: Stretch) -> Any:
    kept = [m for m in stretch_.messages if m.topic not in ("tier", "may_train")]
    yield from cut(replace(stretch_, messages=kept))


PLANTED: Mapping[str, tuple[Any, str]] = {
    "rows that end early": (replace(line, talk=replace(talk, rows=lambda *a: rows(*a)[:1])), "talk.turns"),
    "no end": (replace(line, talk=replace(talk, ends=())), "needs an id that ends"),
    "another port": (replace(line, talk=replace(talk, takes="tokens")), "must be an input"),
    "ids of nothing": (replace(line, talk=replace(talk, ids=lambda said: [])), "talk.ids"),
    "always begins": (replace(line, talk=replace(talk, begins=lambda frame: True)), "talk.begins"),
    "surer than sure": (replace(line, talk=replace(talk, sureness=lambda p: 2.0)), "talk.sureness"),
    "learns from partners": (replace(line, cut=_forgets), "may not be learned from and is"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    wrong, says = PLANTED[name]
    assert any(says in fault for fault in faults(wrong, wrong.talk, None))


def test_the_line_keeps_the_rules_of_talking(policy: RunningPolicy) -> None:
    assert list(faults(line, talk, policy)) == []
