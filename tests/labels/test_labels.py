"""Labels from outside: checked, entered once, learned from, told by receipts, and forbidden where a check says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from desk import LINE, NS, PERIOD, ROWS, bring, right, table, times
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetmill import due, loop, receipts
from fleetmill.core import canonical
from fleetmill.core.errors import FleetmillError, InvalidInputError, NotFoundError, TooNewError
from fleetmill.core.label import Label, array_of, instants, merged, plain_of, said
from fleetmill.core.line import Check, Feature, Message
from fleetmill.home import init_home, open_home
from fleetmill.judge import gate, people
from fleetmill.labels.importing import Asked, import_labels
from fleetmill.receipts import dataset as datasets
from fleetmill.receipts import why as whys
from fleetmill.receive import inbox
from fleetmill.refine import run as refine
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock

ADA = Asked(source="ada", feature="label.y")
SESSIONS = range(6)  # of one device: train, train, held out, train, validation, train


@pytest.fixture
def home(tmp_path):
    chosen = Settings(home=tmp_path / "home", seed=3)
    init_home(chosen, now_ns=Clock()())
    with open_home(chosen, clock=Clock()) as opened:
        yield opened


def enter(home, data, asked=ADA, line=LINE):
    return import_labels(home.ledger, home.books, home.blobs, line, "rows.csv", data, asked)


def refined(home, line=LINE):
    return refine.run(home.ledger, home.books, home.blobs, line, inbox.sessions(home.ledger, line.name))


def accounts(home):
    return {(b.account, b.reason): b.ns for b in home.books.balances() if b.account != "lived"}


def facts(home, kind):
    return list(home.ledger.read(kind=kind))


# -- through the loop -------------------------------------------------------------------------------------------------


def test_sessions_without_labels_wait_and_labels_bring_them_through_the_loop(home, tmp_path):
    bring(home, tmp_path, SESSIONS)
    assert loop.turn(home, LINE) is None
    assert "waits for labels" in due.waiting(home, LINE).sentence()
    assert facts(home, "turn_begun") == []  # nothing is fixed as long as nothing can be learned
    train, others = 4 * ROWS * PERIOD, 2 * ROWS * PERIOD
    assert accounts(home) == {("left_out", "not_cut"): train, ("landed", ""): others}

    entered = enter(home, table(SESSIONS))

    assert (entered.new, entered.sources, entered.sessions) == (len(SESSIONS) * ROWS, ("ada",), len(SESSIONS))
    assert due.waiting(home, LINE).sentence() == "due now"
    turned = loop.turn(home, LINE)
    assert turned.dataset.rows("train") == 4 * ROWS
    assert turned.dataset.sources("held_out") == {"ada": ROWS}
    assert accounts(home) == {("refined", ""): len(SESSIONS) * ROWS * PERIOD}
    assert home.books.faults() == home.books.verify() == []
    assert receipts.cross_check(home) == []
    told = whys.why(home.ledger, turned.candidate.digest)
    assert {(u.digest, u.sources, u.format, u.roles) for u in told.labels} == {
        (entered.digest, ("ada",), "csv", ("train", "validation")),
        (entered.digest, ("ada",), "csv", ("held_out",)),
    }
    made = datasets.why(home.ledger, datasets.find(home.ledger, turned.dataset.digest[:8]))
    assert [(s.role, s.rows, s.sources) for s in made.shares][2] == ("held_out", ROWS, {"ada": ROWS})
    assert (made.labels[0].fact, made.models) == (entered.fact, (turned.candidate.digest,))


def test_what_is_learned_is_what_the_label_says(home, tmp_path):
    bring(home, tmp_path, SESSIONS)
    enter(home, table(SESSIONS))

    data = refine.open_data(home.ledger, home.blobs, refined(home).digest)

    assert np.array_equal(data.column("label.y"), np.concatenate([right(n) for n in (0, 1, 3, 5)]))
    assert loop.turn(home, LINE).verdict.reasons[0].candidate < 1e-3


def test_new_labels_make_the_line_due_and_a_new_dataset_and_nothing_else_does(home, tmp_path):
    bring(home, tmp_path, SESSIONS, label=0.5)
    first = loop.turn(home, LINE)
    assert first.dataset.sources("train") == {}
    assert loop.turn(home, LINE) is None

    enter(home, table([1]))
    second = loop.turn(home, LINE)

    assert second.dataset.digest != first.dataset.digest
    changed = [p.session for p, q in zip(first.dataset.parts, second.dataset.parts) if p.episodes != q.episodes]
    assert changed == ["press-press/s1"]
    assert second.dataset.sources("train") == {"ada": ROWS}
    assert len(facts(home, "refined")) == len(SESSIONS) + 1  # only the session that the labels touch is cut anew
    assert loop.turn(home, LINE) is None
    assert receipts.cross_check(home) == []


def test_labels_that_come_while_a_turn_waits_for_a_person_are_for_the_next(tmp_path):
    chosen = Settings(home=tmp_path / "home", lines={"desk": LineSettings(approval="required")})
    init_home(chosen, now_ns=Clock()())
    with open_home(chosen, clock=Clock()) as home:
        bring(home, tmp_path, range(12), label=0.5)
        enter(home, table([n for n in range(12) if n != 1]))
        assert loop.turn(home, LINE) is None
        waits = due.approval(home, LINE)
        assert waits
        enter(home, table([1]))
        people.decide(home.ledger, waits, word="approved", by="Ada", reason="good")

        turned = loop.turn(home, LINE)

        assert turned.candidate.digest == waits
        assert turned.release is not None
        assert loop.turn(home, LINE) is None  # the next one waits for a person, too
        assert due.approval(home, LINE) != waits
        first, second = facts(home, "turn_learned")
        assert first.record["dataset"] == turned.dataset.digest
        assert refine.version(home.ledger, second.record["dataset"]).sources("train")["ada"] > 0
        assert len(facts(home, "dataset")) == 2


# -- one set over another ---------------------------------------------------------------------------------------------


def test_importing_the_same_again_changes_nothing(home, tmp_path):
    bring(home, tmp_path, [0, 1])
    first = enter(home, table([0, 1]))
    head = home.ledger.head()

    again = enter(home, table([0, 1]))

    assert (again.new, again.digest, again.fact) == (0, "", 0)
    assert home.ledger.head() == head
    assert facts(home, "labels")[0].record["digest"] == first.digest


def test_later_sets_count_over_earlier_ones_and_over_what_was_recorded(home, tmp_path):
    bring(home, tmp_path, [0, 1], label=0.5)
    enter(home, table([0], 1.0))
    enter(home, table([0], 2.0), replace(ADA, source="bob"))
    enter(home, table([0], 1.0))  # and back: it says something new

    version = refined(home)
    held = refine.open_data(home.ledger, home.blobs, version.digest).column("label.y")

    assert held.tolist() == [1.0] * ROWS + [0.5] * ROWS
    assert [len(p.labels) for p in version.parts] == [3, 0]
    assert version.parts[0].sources == {"ada": ROWS}
    assert enter(home, table([0], 1.0), replace(ADA, source="bob")).new == 1  # agreeing is saying something


def test_a_session_that_was_used_stays_refined_when_labels_take_its_rows_away(home, tmp_path):
    keeps = replace(LINE, cut=lambda stretch: (e for e in LINE.cut(stretch) if np.isfinite(e.columns["label.y"]).all()))
    bring(home, tmp_path, [0, 1], label=0.5)
    refined(home, keeps)
    before = accounts(home)
    enter(home, table([0], "nan"))

    assert refined(home, keeps).rows("train") == ROWS
    assert accounts(home) == before
    assert home.books.faults() == home.books.verify() == []


def test_half_of_what_was_left_out_is_refined_when_half_of_it_is_labelled(home, tmp_path):
    bring(home, tmp_path, [0])
    refined(home)
    at = times(0)
    rows = f"device,start,end,value\npress-press,{at[5]},{at[12]},1.5\n".encode()
    enter(home, rows)

    assert refined(home).rows("train") == 7
    assert accounts(home) == {("refined", ""): 7 * PERIOD, ("left_out", "not_cut"): 13 * PERIOD}
    (whole,) = {s.recorded_bytes for s in inbox.sessions(home.ledger, "desk")}
    assert sum(b.bytes for b in home.books.balances() if b.account != "lived") == whole
    assert home.books.faults() == home.books.verify() == []


def test_what_was_looked_at_and_not_marked_takes_the_value_elsewhere(home, tmp_path):
    bring(home, tmp_path, [0])
    at = times(0)
    rows = f"device,session,start,end,value\npress-press,s0,{at[5]},{at[8]},fault\n".encode()
    enter(home, rows, replace(ADA, classes={"fault": 1.0}, elsewhere="0"))

    held = refine.open_data(home.ledger, home.blobs, refined(home).digest).column("label.y")
    assert held.tolist() == [0.0] * 5 + [1.0] * 3 + [0.0] * 12


# -- what is refused --------------------------------------------------------------------------------------------------

A, B = times(0)[0], times(0)[3]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (f"crane,s0,{A},{B},1", "rows.csv line 2: no device 'crane' here"),
        (f"press-press,s9,{A},{B},1", "rows.csv line 2: device press-press has no closed session 's9'"),
        (f"press-press,s0,{A - NS},{B},1", "rows.csv line 2: [{A - NS}, {B}) lies outside of what was recorded"),
        (f"press-press,s0,{A},{B + 3600 * NS},1", "lies outside of what was recorded"),
        (f"press-press,s0,{B},{A},1", "which is not after its start"),
        (
            f"press-press,s0,{A + 1},{A + 5},1",
            "holds no instant of session press-press/s0; label.y speaks of those of x",
        ),
        (f"press-press,s0,{A},{B},fault", "'fault' is no number. If it is a class"),
        (f'press-press,s0,{A},{B},"[1, 2]"', "line 2: label.y takes float32()"),
        (f"press-press,s0,yesterday,{B},1", "line 2: start: time 'yesterday': must be nanoseconds"),
        (f"press-press,s0,{A},{B},1\npress-press,s0,{B - PERIOD},{B},2", "line 3: says of"),
    ],
)
def test_a_row_that_cannot_be_is_named_and_nothing_is_entered(home, tmp_path, rows, says):
    bring(home, tmp_path, [0])
    data = f"device,session,start,end,value\n{rows}\n".encode()
    says = says.replace("{A - NS}", str(A - NS)).replace("{B}", str(B))

    with pytest.raises(FleetmillError) as refusal:
        enter(home, data)

    assert says in str(refusal.value)
    assert str(refusal.value).startswith("rows.csv line ")
    assert facts(home, "labels") == []


@pytest.mark.parametrize(
    ("data", "asked", "says"),
    [
        (b"session,start,value\ns0,1,1\n", ADA, "no column with the device"),
        (table([0]), replace(ADA, feature="label.z"), "no such label feature; it has label.y, label.boxes, label.note"),
        (table([0]), replace(ADA, source=""), "nobody is named who says so. Give --source NAME"),
        (table([0]), replace(ADA, source="recorded"), "which is what recordings say themselves"),
        (table([0], source="recorded"), ADA, "says that it was recorded, and the recording says otherwise"),
        (table([0], feature="label.z"), replace(ADA, feature=""), "the line has no label feature 'label.z'"),
        (table([0], feature=""), replace(ADA, feature=""), "of which feature? Give --feature"),
        (table([0]), replace(ADA, format="voc"), "must be one of csv, coco, label-studio"),
        (b'{"a": 1}', ADA, "is JSON, but no COCO"),
    ],
)
def test_a_file_that_says_too_little_is_one_clear_line(home, tmp_path, data, asked, says):
    bring(home, tmp_path, [0])
    with pytest.raises((InvalidInputError, NotFoundError)) as refusal:
        enter(home, data, asked)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert facts(home, "labels") == []


def test_a_label_of_another_lines_device_is_refused(home, tmp_path):
    bring(home, tmp_path, [0])
    with pytest.raises(InvalidInputError, match="device press-press is on line desk, not other"):
        enter(home, table([0]), line=replace(LINE, name="other"))


def test_a_feature_of_varying_length_is_refused_with_what_to_do(home, tmp_path):
    bring(home, tmp_path, [0])
    loose = replace(LINE, features=(*LINE.features[:4], replace(LINE.features[4], shape=(-1, 5))))
    rows = f'device,start,value\npress-press,{A},"[[1, 2, 3, 4, 1]]"\n'.encode()

    with pytest.raises(InvalidInputError, match=r"label\.boxes has shape \(-1, 5\).*e\.g\. \(16, 5\)"):
        enter(home, rows, replace(ADA, feature="label.boxes"), loose)


def test_a_set_of_a_newer_version_is_refused_and_not_guessed_at(home, tmp_path):
    bring(home, tmp_path, [0])
    entered = enter(home, table([0]))
    value = canonical.loads(home.blobs.get(entered.digest))
    path = home.blobs.path(entered.digest)
    path.chmod(0o644)
    path.write_bytes(canonical.dumps({**value, "version": 2}))

    with pytest.raises(TooNewError):
        refined(home)


def test_labels_of_a_feature_that_the_line_dropped_do_nothing(home, tmp_path):
    bring(home, tmp_path, [0], label=0.5)
    enter(home, f"device,start,value\npress-press,{A},wet\n".encode(), replace(ADA, feature="label.note"))
    dropped = replace(LINE, features=LINE.features[:5])

    assert refined(home, dropped).parts[0].labels == ()
    assert len(refined(home).parts[0].labels) == 1


# -- a check may forbid a source --------------------------------------------------------------------------------------


def forbidding(*sources):
    return replace(LINE, checks=tuple(replace(c, forbids=sources) for c in LINE.checks))


def test_a_forbidden_source_in_held_out_rows_holds_the_model_and_says_how_many(home, tmp_path):
    bring(home, tmp_path, range(12))
    enter(home, table(range(12)), replace(ADA, source="auto"))

    turned = loop.turn(home, forbidding("auto"))

    assert (turned.verdict.decision, turned.release) == ("held", None)
    assert turned.verdict.sentences()[-1] == f"NOT MET: {3 * ROWS} held-out rows labelled by auto, and none may be"


def test_in_training_rows_the_same_source_is_no_reason(home, tmp_path):
    bring(home, tmp_path, range(12))
    held_out = [2, 6, 10]
    enter(home, table([n for n in range(12) if n not in held_out]), replace(ADA, source="auto"))
    enter(home, table(held_out))

    turned = loop.turn(home, forbidding("auto"))

    assert turned.verdict.decision == "accepted"
    assert turned.verdict.sentences()[-1] == "met: 0 held-out rows labelled by auto, and none may be"


@settings(max_examples=40, deadline=None)
@given(
    rows=st.dictionaries(st.sampled_from(["auto", "ada", "bob"]), st.integers(0, 9)),
    forbids=st.lists(st.sampled_from(["auto", "ada", "bob", "eve"]), unique=True),
)
def test_the_gate_accepts_just_when_no_row_is_by_a_forbidden_source(rows, forbids):
    check = Check(metric="m", better="lower", against="champion", limit=1.0, forbids=tuple(forbids))
    good, bad = ([[{"m": np.array(v)}] for _ in range(16)] for v in (1.0, 2.0))
    mine, theirs = (gate.Side(all=side, digest="d" * 64) for side in (good, bad))

    found = gate.look(
        [check], mine, theirs, lambda t: {"m": float(np.mean([x["m"] for x in t]))}, against="champion", seed=1,
        sources=rows,
    )  # fmt: skip

    assert found.accepted == (not any(rows.get(name) for name in forbids))
    told = {r.metric: r.candidate for r in found.reasons if r.rule == "forbids"}
    assert told == {f"rows labelled by {name}": rows.get(name, 0) for name in forbids}
    assert gate.decision(found, pairs=16) == ("accepted" if found.accepted else "held")


# -- the rule ---------------------------------------------------------------------------------------------------------


def label(start, end, value, source="ada", name="label.y"):
    return Label(device="d", session="s", feature=name, start_ns=start, end_ns=end, value=value, source=source)


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10), st.sampled_from(["a", "b"])), max_size=6),
    recorded=st.sets(st.integers(0, 20)),
)
def test_each_instant_has_the_last_label_that_holds_it_or_what_was_recorded(spans, recorded):
    x = [Message(topic="x", log_time_ns=t, publish_time_ns=t, value={"data": np.zeros(3)}) for t in range(20)]
    y = [Message(topic="label.y", log_time_ns=t, publish_time_ns=t, value={"data": np.float32(-1)}) for t in recorded]
    labels = [label(a, a + n, float(i), source) for i, (a, n, source) in enumerate(spans)]

    found, sources = merged(LINE, sorted([*x, *y], key=lambda m: m.log_time_ns), labels)

    expected = dict.fromkeys(recorded, -1.0)
    by = {}
    for each in labels:
        for t in range(each.start_ns, each.end_ns):
            expected.pop(t, None)
            if t < 20:
                expected[t], by[t] = each.value, each.source
            else:
                by.pop(t, None)
    assert {m.log_time_ns: float(m.value["data"]) for m in found if m.topic == "label.y"} == expected
    assert [m.log_time_ns for m in found] == sorted(m.log_time_ns for m in found)
    assert sum(m.topic == "label.y" for m in found) == len(expected)
    assert {t: s for s, at in sources.items() for t in at.tolist()} == by


def test_a_label_speaks_of_the_channel_that_it_is_named_after_or_of_the_first_observation():
    y = [Message(topic="y", log_time_ns=t, publish_time_ns=t, value={"data": np.float32(0)}) for t in (1, 3)]
    x = [Message(topic="x", log_time_ns=t, publish_time_ns=t, value={"data": np.zeros(3)}) for t in (2, 4, 4)]

    assert instants(LINE, "label.y", [*x, *y]).tolist() == [1, 3]
    assert instants(LINE, "label.y", x).tolist() == [2, 4]
    assert instants(LINE, "label.boxes", [*x, *y]).tolist() == [2, 4]
    assert instants(LINE, "label.y", []).tolist() == []
    assert said(instants(LINE, "label.y", x), [label(2, 3, 1.0)]) == {2: label(2, 3, 1.0)}


def label_feature(dtype, shape):
    return Feature(name="f", kind="label", dtype=dtype, shape=shape, unit="1")


@pytest.mark.parametrize(
    ("feature", "value", "held"),
    [
        (label_feature("float32", ()), None, [np.nan]),
        (label_feature("int8", ()), 3, [3]),
        (label_feature("float32", (2,)), [1, 2], [1, 2]),
        (label_feature("float32", (2, 4)), [[1, 2, 3, 4]], [1, 2, 3, 4] + [np.nan] * 4),
        (label_feature("float32", (2, 4)), [], [np.nan] * 8),
    ],
)
def test_a_value_becomes_an_array_and_comes_back(feature, value, held):
    found = array_of(feature, value)

    assert np.array_equal(np.ravel(found), held, equal_nan=feature.dtype != "int8")
    assert (found.dtype, found.shape) == (np.dtype(feature.dtype), feature.shape)
    assert plain_of(feature, found) == value


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("int8", (), 300),
        ("int8", (), 0.5),
        ("int8", (), None),
        ("float32", (), "x"),
        ("float32", (), float("inf")),
        ("float32", (2,), [1]),
        ("float32", (1, 4), [[1, 2, 3, 4], [1, 2, 3, 4]]),
        ("float32", (1, 4), [[1, 2, 3]]),
        ("float32", (1, 5), 7),
        ("str", (), 7),
    ],
)
def test_a_value_that_the_feature_cannot_hold_is_refused(dtype, shape, value):
    with pytest.raises(InvalidInputError, match=r"^f (takes|is int8)"):
        array_of(label_feature(dtype, shape), value)


def test_a_label_set_is_the_same_bytes_for_the_same_labels(home, tmp_path):
    bring(home, tmp_path, [0])
    entered = enter(home, table([0], 1.0))
    data = home.blobs.get(entered.digest)
    assert canonical.dumps(json.loads(data)) == data
    (row,) = json.loads(data)["labels"]
    assert (row["feature"], row["value"], row["source"]) == ("label.y", 1.0, "ada")
    (fact,) = facts(home, "labels")
    assert {k: fact.record[k] for k in ("line", "format", "rows", "sources", "sessions")} == {
        "line": "desk", "format": "csv", "rows": 1, "sources": ["ada"], "sessions": ["press-press/s0"],
    }  # fmt: skip
