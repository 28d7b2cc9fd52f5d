"""The production line `language`: what comes in, what is learned, how it is scored, and its files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill import loop, score
from fleetmill.core.errors import InvalidInputError, LineError
from fleetmill.core.line import Episode, Message, Stopped, Stretch, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import init_home, open_home
from fleetmill.receive import imports
from fleetmill.seams.runtime import policies
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, Notes
from fleetmill.testing.kit import Held, InMemory

pytest.importorskip("tokenizers", reason="needs the extra `llm`")

from fleetmill.lines import vocabulary
from fleetmill.lines.fit import take_over
from fleetmill.lines.language import calibrating, line
from fleetmill.lines.language.conversations import (
    ASSISTANT_SAYS,
    CONTEXT,
    PLAIN,
    USER_SAYS,
    Turn,
    conversations,
    cut,
    ids,
    messages,
    padded,
    windows,
)
from fleetmill.lines.language.importing import chats, texts
from fleetmill.lines.language.judging import answers, metrics, told_bits
from fleetmill.lines.language.net import Llama
from fleetmill.lines.language.orders import MOST_ORDER, Counted, Orders
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.language.practice import drawn, told
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import named
from fleetmill.lines.language.sums import is_right, sums, worth

START_NS = 1_800_000_000_000_000_000
AWKWARD = "'Tis 1234 naïve ☂s\n\n\tit's  <|end|> <<48/2=24>>24 — don’t!"


def episodes(files: Mapping[str, bytes], *, most: int = 10**6) -> list[Episode]:
    held = InMemory(files)
    importer = next(i for i in line.importers if i.detects(held))
    found = []
    for f in importer.read(held):
        found += cut(Stretch(device=f.device, session=f.session, index=0, tags={}, messages=list(f.messages)))
        if len(found) >= most:
            break
    return found


def of(episode: Episode) -> list[tuple[Turn, ...]]:
    return conversations(episode.columns["text"], episode.columns["role"], episode.columns["first"])


def job(found: Sequence[Episode], **more: Any) -> TrainJob:
    return TrainJob(data=Held(found), **({"parent": None, "seed": 10, "settings": {"steps": 3, "size": "tiny"}} | more))


@pytest.fixture(scope="module")
def said() -> list[Episode]:
    """Made-up conversations: 18 sessions."""
    return episodes({name: data for name, data in shops(7).items() if name == "shop-0.jsonl"}, most=18)


@pytest.fixture(scope="module")
def files(said: list[Episode]) -> Mapping[str, bytes]:
    """A model that learned a little."""
    return line.train(job(said[:14], settings={"steps": 80, "size": "tiny"}), Notes())  # type: ignore[operator]


# -- the contract -----------------------------------------------------------------------------------------------------


def test_importing_the_line_loads_no_torch_and_no_tokenizers() -> None:
    code = "import sys, fleetmill.lines.language; print([m for m in ('torch', 'tokenizers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_guard_sends_ids_of_the_vocabulary_alone() -> None:
    for token, sent in ((-5, 0), (7, 7), (10**9, OURS.size - 1)):
        assert line.guard({"token": np.asarray(token)}, {}, {})[0]["token"] == sent


# -- text and ids -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_text_comes_back_from_its_ids_and_bytes_are_ids(text: str) -> None:
    text = text.replace("\0", "").encode("utf-8", "ignore").decode()
    assert OURS.decode(OURS.encode([text])[0]) == text
    assert OURS.decode(list(text.encode())) == text


def test_a_mark_that_somebody_typed_is_text() -> None:
    assert not set(OURS.encode(["<|end|><|user|>"])[0]) & set(range(256, 256 + len(vocabulary.MARKS)))


def test_digits_stand_alone_and_every_id_has_its_place() -> None:
    assert OURS.encode(["1234"])[0] == [49, 50, 51, 52]
    pieces = OURS.pieces
    assert len(pieces) == len(set(pieces)) == OURS.size == 1024
    assert [pieces.index(mark) for mark in vocabulary.MARKS[:4]] == [
        vocabulary.END,
        vocabulary.SYSTEM,
        vocabulary.USER,
        vocabulary.ASSISTANT,
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.text(max_size=600)), min_size=1, max_size=4).map(
            lambda turns: [t for n, t in enumerate(turns) if n == 0 or turns[n - 1][0] != t[0]]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_conversation_comes_out_of_its_rows_as_it_went_in(found: list[list[tuple[int, str]]]) -> None:
    clean = [
        tuple(Turn(role=r, text=t.replace("\0", "").encode("utf-8", "ignore").decode()) for r, t in turns)
        for turns in found
    ]
    stretch = Stretch(device="d", session="s", index=0, tags={}, messages=list(messages(clean, start_ns=START_NS)))
    (episode,) = cut(stretch)
    assert of(episode) == clean


def test_windows_tell_each_id_once() -> None:
    row = list(range(1, 700))
    parts = windows([row])
    assert all(len(part) <= CONTEXT for part in parts)
    assert [i for part in parts for i in part[1:]] == row[1:]


# -- what may not be learned from -------------------------------------------------------------------------------------


def answered(tier: int, may_train: int | None, secret: str) -> list[Message]:
    """Three conversations; the second was answered by a server of that tier."""
    found = [(Turn(role=USER_SAYS, text=q), Turn(role=ASSISTANT_SAYS, text=a)) for q, a in (
        ("one?", "first"), ("two?", secret), ("three?", "third"),
    )]  # fmt: skip
    rows = list(messages(found, start_ns=START_NS))
    at = {m.log_time_ns for m in rows if m.topic == "text" and secret.encode() in bytes(m.value["data"])}  # type: ignore[arg-type]
    for time_ns in at:
        values = {"tier": tier} | ({} if may_train is None else {"may_train": may_train})
        rows += [
            Message(topic=k, log_time_ns=time_ns, publish_time_ns=time_ns, value={"data": np.asarray(v, np.uint8)})
            for k, v in values.items()
        ]
    return sorted(rows, key=lambda m: m.log_time_ns)


@pytest.mark.parametrize(
    ("tier", "may_train", "kept"), [(3, None, False), (3, 0, False), (3, 1, True), (1, None, True)]
)
def test_a_partner_s_answer_is_cut_only_where_its_terms_say_so(tier: int, may_train: int | None, kept: bool) -> None:
    rows = answered(tier, may_train, "canary")
    found = [
        turn.text
        for e in cut(Stretch(device="d", session="s", index=0, tags={}, messages=rows))
        for c in of(e)
        for turn in c
    ]
    assert ("canary" in found) == kept
    assert {"first", "third"} <= set(found)


def test_what_is_said_after_a_forbidden_answer_in_its_conversation_is_left_out_too() -> None:
    rows = answered(3, None, "canary")
    last = max(m.log_time_ns for m in rows)
    follow = list(messages([(Turn(role=USER_SAYS, text="as the canary said"),)], start_ns=START_NS + 10**9 * 50))
    shifted = [m for m in rows if m.log_time_ns < last - 10**9] + [
        Message(
            topic=m.topic,
            log_time_ns=m.log_time_ns,
            publish_time_ns=m.log_time_ns,
            value={"data": np.zeros((), np.uint8)} if m.topic == "first" else m.value,
        )
        for m in follow
    ]
    found = [
        t.text
        for e in cut(Stretch(device="d", session="s", index=0, tags={}, messages=shifted))
        for c in of(e)
        for t in c
    ]
    assert not any("canary" in text for text in found)


# -- sums -------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.recursive(
    st.integers(0, 999).map(str),
    lambda part: st.tuples(part, st.sampled_from("+-*/"), part).map(lambda p: f"({p[0]}{p[1]}{p[2]})"),
    max_leaves=5,
))  # fmt: skip
def test_a_sum_comes_to_what_python_says(expression: str) -> None:
    try:
        truth = eval(expression, {"__builtins__": {}})  # the oracle; the line itself has no eval
    except ZeroDivisionError:
        truth = None
    found = worth(expression)
    if len(expression) > 40 or truth is None or abs(truth) >= 10**12:
        assert found is None
    else:
        assert found is not None
        assert float(found) == pytest.approx(truth)


@pytest.mark.parametrize("text", ["", "()", "1+", "__import__('os')", "2**3", "1,000+1", "1/0", "(" * 30, "9" * 41])
def test_what_is_no_sum_is_worth_nothing(text: str) -> None:
    assert worth(text) is None


def test_only_true_sums_with_a_sign_are_asked() -> None:
    assert sums("<<48/2=24>> <<7=7>> <<1+1=3>> <<100/3=33.33>> <<2*x=4>>") == [("48/2", "24"), ("100/3", "33.33")]
    assert is_right("0.5", Fraction(1, 2))
    assert not is_right("half", Fraction(1, 2))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["48/2", "3*5", "100-36", "2*3+4", "0.5*20", "(2/3)*105"]), st.integers(0, 10**6))
def test_a_sum_that_is_drawn_anew_is_true_and_of_the_same_form(expression: str, seed: int) -> None:
    known = (expression, str(worth(expression)))
    new, result = drawn(known, np.random.default_rng(seed))
    assert [c for c in new if not c.isdigit()] == [c for c in expression if not c.isdigit()]
    assert is_right(result, worth(new) or Fraction(-1)) or (new, result) == known


# -- importers --------------------------------------------------------------------------------------------------------


def test_gsm8k_and_chats_come_in_and_notes_beside_them_do_not() -> None:
    lines = [
        {"question": "q", "answer": "a"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    (episode,) = episodes({"x/train.jsonl": data, "SOURCE.txt": b"where from", "LICENSE": b"whose"})
    assert [[(t.role, t.text) for t in c] for c in of(episode)] == [[(2, "q"), (3, "a")], [(1, "s"), (2, "u")]]


def test_a_text_comes_in_whole() -> None:
    text = "To be, or not to be: naïve ☂.\n" * 3000
    found = episodes({"play.txt": text.encode(), "readme.txt": b"no"})
    assert len(found) > 3
    assert "".join(t.text for e in found for c in of(e) for t in c) == text


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        '{"question": 3, "answer": "a"}',
        '{"messages": [{"role": "judge", "content": ""}]}',
        '{"messages": []}',
    ],
)
def test_a_line_that_is_no_conversation_is_refused_by_its_number(text: str) -> None:
    good = '{"question": "q", "answer": "a"}\n'
    with pytest.raises(InvalidInputError, match=r"x\.jsonl line 2"):
        list(chats.read(InMemory({"x.jsonl": (good + text).encode()})))


def test_a_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"x\.txt: must be UTF-8"):
        list(texts.read(InMemory({"x.txt": b"\xff\xfe\xfa"})))


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(MOST_ORDER))
def test_the_counted_chances_of_the_next_byte_are_one_together(order: int) -> None:
    counted = Orders(np.frombuffer(b"abracadabra and a banana", np.uint8), order)
    for before in (b"", b"abra", b"zz", b"a"):
        every = [counted.logs(np.frombuffer(before + bytes([b]), np.uint8))[-1] for b in range(256)]
        assert np.exp(every).sum() == pytest.approx(1.0)


def test_counting_further_back_tells_more_of_what_was_read() -> None:
    text = np.frombuffer(b"the cat sat on the mat, the cat sat. " * 20, np.uint8)
    told = [Orders(text, order).logs(text).mean() for order in range(4)]
    assert told == sorted(told)


def test_the_baseline_answers_with_the_usual_answer_and_costs_nothing_at_marks() -> None:
    policy = Counted(np.frombuffer(b"aab", np.uint8), [OURS.encode(["24"])[0]] * 2 + [[49]], 1, OURS)
    assert answers(policy, ["1+1", "2*3"], OURS)[0] == ["24", "24"]
    assert policy.ask({"ids": np.array([[vocabulary.USER, 97]])})["logprobs"][0, 0] == 0.0


def test_bits_are_counted_over_bytes_of_text_and_each_byte_once() -> None:
    conversation = (Turn(role=USER_SAYS, text=AWKWARD), Turn(role=ASSISTANT_SAYS, text="x" * 2000))

    class Even:
        """Each byte one bit."""

        def reset(self) -> None: ...
        def step(self, observation: Any) -> Any: ...
        def ask(self, inputs: Any) -> Any:
            return {"logprobs": -OURS.widths[inputs["ids"]] * np.log(2.0)}

    bits, size = told_bits(Even(), [conversation], OURS, most=100)
    assert size == len(AWKWARD.encode()) + 2000
    assert bits == pytest.approx(size)


def test_metrics_without_sums_compare_and_without_bytes_do_not() -> None:
    empty = {name: np.array(0.0) for name in ("bits", "bytes", "sums", "right")}
    assert metrics([empty])["sums_wrong"] == 0.5
    assert np.isnan(metrics([empty])["bits_per_byte"])


# -- learning ---------------------------------------------------------------------------------------------------------


def test_a_little_learning_tells_new_conversations_better_than_counting(
    files: Mapping[str, bytes], said: list[Episode]
) -> None:
    policy, counted = policies(line, OnnxRuntime(), files), line.judging.baseline(Held(said[:14]))
    mine, theirs = ([line.judging.score(p, e) for e in said[14:]] for p in (policy, counted))
    assert line.judging.metrics(mine)["bits_per_byte"] < line.judging.metrics(theirs)["bits_per_byte"] < 8.0


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(said: list[Episode]) -> None:
    wanted, stopped = job(said[:2], settings={"steps": 75, "size": "tiny"}), Notes(stop_at=50)
    whole = line.train(wanted, Notes())  # type: ignore[operator]
    with pytest.raises(Stopped):
        line.train(wanted, stopped)  # type: ignore[operator]
    assert line.train(wanted, Notes(saved=(50, stopped.states[50]))) == whole  # type: ignore[operator]


def test_no_steps_from_a_parent_give_the_parent(files: Mapping[str, bytes], said: list[Episode]) -> None:
    assert line.train(job(said, parent=files, settings={"steps": 0, "size": "tiny"}), Notes()) == files  # type: ignore[operator]


def test_what_is_kept_apart_is_whole_sessions_and_stays_so_when_more_come(said: list[Episode]) -> None:
    def names(found: calibrating.Apart) -> set[tuple[str, str]]:
        return {(e.device, e.session) for e in found.chosen}

    few, many = (calibrating.parted(Held(e), 0.3) for e in (said[:12], said))
    assert names(few[1]) <= names(many[1])
    assert names(many[0]) & names(many[1]) == set()
    assert len(many[0]) + len(many[1]) == len(said)
    assert 0.1 * len(said) < len(many[1]) < 0.6 * len(said)
    assert [len(part) for part in calibrating.parted(Held(said), 0.0)] == [len(said), 0]
    assert all(len(part) for part in calibrating.parted(Held(said[:2]), 0.001))


def test_the_temperature_is_what_logits_were_multiplied_with() -> None:
    chance = np.random.default_rng(10)
    true = torch.from_numpy(chance.normal(size=(4000, 5)))
    came = torch.multinomial(torch.softmax(true, 1), 1, generator=torch.Generator().manual_seed(10))[:, 0]

    def surprise(t: float) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(3.0 * true / t, came)

    assert calibrating.temperature(surprise) == pytest.approx(3.0, rel=0.08)


def test_a_model_is_as_sure_as_its_temperature_says_and_keeps_it(said: list[Episode]) -> None:
    how = {"steps": 20, "size": "tiny", "apart": 0.3}
    plain = line.train(job(said, settings={**how, "apart": 0.0}), Notes())  # type: ignore[operator]
    made = line.train(job(said, settings=how), Notes())  # type: ignore[operator]
    again = line.train(job(said, parent=made, settings={**how, "steps": 0}), Notes())  # type: ignore[operator]

    assert "sureness.json" not in plain
    assert again == made
    heat = json.loads(made["sureness.json"])["temperature"]
    assert heat != 1.0
    net = Llama(named("tiny", OURS.size))
    take_over(net, made)
    seen = np.array([[65, 66, 67]], np.int64)
    ours = net(torch.from_numpy(seen))[0][0, -1].detach().numpy()
    said_to = policies(line, OnnxRuntime(), made).ask({"ids": seen})
    np.testing.assert_allclose(np.asarray(said_to["logits"])[0], ours / heat, atol=1e-3)


def test_nothing_to_learn_from_another_size_and_another_parent_are_said(
    said: list[Episode], files: Mapping[str, bytes]
) -> None:
    with pytest.raises(InvalidInputError, match="no text to learn from"):
        line.train(job([]), Notes())  # type: ignore[operator]
    with pytest.raises(InvalidInputError, match="size 'huge'"):
        line.train(job(said, settings={"size": "huge"}), Notes())  # type: ignore[operator]
    with pytest.raises(LineError, match="do not fit"):
        line.train(job(said, parent=files, settings={"size": "large", "steps": 0}), Notes())  # type: ignore[operator]


# -- the files --------------------------------------------------------------------------------------------------------


def net_of(files: Mapping[str, bytes]) -> Any:
    from safetensors.torch import load

    from fleetmill.lines.language.net import Llama

    net = Llama(named("tiny", OURS.size))
    net.load_state_dict(load(files["weights.safetensors"]))
    return net.eval()


def test_both_graphs_say_what_the_network_says_whole_or_step_by_step(files: Mapping[str, bytes]) -> None:
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    net, rows = net_of(files), padded(ids([told("12+7", "19"), told("48/2", "24")], OURS))
    with torch.no_grad():
        whole = net(torch.from_numpy(rows))[0].numpy()
    given = policies(line, OnnxRuntime(), files).ask({"ids": rows})
    last = (rows != 0).sum(1) - 1
    np.testing.assert_allclose(given["logits"], whole[[0, 1], last], atol=1e-4)
    shifted = torch.log_softmax(torch.from_numpy(whole), -1).numpy()[:, :-1]
    np.testing.assert_allclose(
        given["logprobs"][:, 1:], np.take_along_axis(shifted, rows[:, 1:, None], 2)[..., 0], atol=1e-4
    )
    session = onnxruntime.InferenceSession(files["genai.onnx"])
    names, size = [i.name for i in session.get_inputs()], net.size
    past = [np.zeros((2, size.kv_heads, 0, size.head), np.float32)] * (len(names) - 1)
    for at in range(rows.shape[1]):
        logits, *past = session.run(None, dict(zip(names, [rows[:, at : at + 1], *past], strict=True)))
        np.testing.assert_allclose(logits[:, 0], whole[:, at], atol=1e-4)


def test_the_gguf_file_holds_the_same_weights_as_llama_cpp_s_own_reader_finds_them(
    files: Mapping[str, bytes], tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(files["model.gguf"])
    found = gguf.GGUFReader(tmp_path / "m.gguf")
    facts = {name: field.contents() for name, field in found.fields.items()}
    assert facts["general.architecture"] == "llama"
    assert facts["tokenizer.ggml.tokens"] == [*OURS.pieces]
    weights = {n: v.numpy() for n, v in net_of(files).state_dict().items()}
    tensors = {t.name: np.asarray(t.data) for t in found.tensors}
    assert len(tensors) == len(weights)
    np.testing.assert_array_equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(tensors["blk.1.ffn_down.weight"], weights["model.layers.1.mlp.down_proj.weight"])
    turned, plain = tensors["blk.1.attn_q.weight"], weights["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(turned[1], plain[8])  # beside the first row stands the one half a head further on
    assert sorted(map(bytes, turned)) == sorted(map(bytes, plain))


def test_the_tokenizer_s_file_reads_text_as_the_line_does(files: Mapping[str, bytes]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    read = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert read.encode("a<|end|>b").ids == [97, vocabulary.END, 98]
    assert read.encode(AWKWARD.replace("<|end|>", "")).ids == OURS.encode([AWKWARD.replace("<|end|>", "")])[0]


# -- in a home --------------------------------------------------------------------------------------------------------


def test_a_home_takes_conversations_in_turns_and_scores_a_file_that_it_never_saw(tmp_path: Path) -> None:
    made = shops(3)
    (tmp_path / "shop.jsonl").write_bytes(b"".join(made["shop-0.jsonl"].splitlines(keepends=True)[: 32 * 12]))
    (tmp_path / "other.jsonl").write_bytes(b"".join(made["shop-1.jsonl"].splitlines(keepends=True)[: 32 * 2]))
    settings = Settings(home=tmp_path / "home", lines={"language": LineSettings(train={"steps": 80, "size": "tiny"})})
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as home:
        imports.import_path(home.ledger, home.books, home.blobs, line, tmp_path / "shop.jsonl", device="pc")
        turned = loop.turn(home, line)
        assert turned is not None
        assert {"model.onnx", "model.gguf", "genai.onnx", "genai_config.json", "tokenizer.json"} <= set(
            turned.candidate.files
        )
        found = score.score(home, line, turned.candidate.digest, tmp_path / "other.jsonl")
    assert 0 < found.total["bits_per_byte"] < 8
    assert 0 <= found.total["sums_right"] <= 1


@pytest.mark.data
def test_the_real_texts_come_in(data: Path) -> None:
    gsm = imports.read_sessions(data / "text-gsm8k", line)
    plays = list(imports.read_sessions(data / "text-tinyshakespeare", line))
    found = [
        c
        for f in gsm
        for e in cut(Stretch(device=f.device, session=f.session, index=0, tags={}, messages=list(f.messages)))
        for c in of(e)
    ]
    assert len(found) == 7473
    assert found[0][1].text.endswith("#### 72")
    assert len([s for c in found for s in sums(c[1].text)]) > 20_000
    assert len(plays) == 69
    assert PLAIN == 0
