"""Forecasts: told by the model in the field, signed, scored once it is known what came, served to who runs no model."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from fleetmill import cli, forecasts, loop
from fleetmill.api.door import make_app
from fleetmill.core.errors import IntegrityError, LineError, NotFoundError, TrustError
from fleetmill.core.forecast import read_foretold, track_record
from fleetmill.core.label import Label
from fleetmill.core.line import Check, Episode
from fleetmill.core.signing import Signature
from fleetmill.findings.foretold import TrackRecords, line_of, told
from fleetmill.home import init_home, open_home
from fleetmill.lines import find
from fleetmill.receive import imports
from fleetmill.refine import outside
from fleetmill.seams.ledger import Draft
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import Clock, in_process, tiny_line
from killing import Killed, killed_at

HOUR = 3_600 * 10**9
MONDAY = datetime(2024, 1, 1, tzinfo=timezone.utc)
HERE = {"host": "127.0.0.1"}


def easy(line, metric):
    """The line with a gate that lets anything through: these tests are about what comes after it."""
    sides = ("baseline", "champion")
    checks = tuple(Check(metric=metric, better="lower", against=side, limit=1e6) for side in sides)
    return replace(line, checks=checks, slices={})


TRAFFIC = easy(find("traffic"), "mae_24h")
LIFE = easy(find("machine_life"), "rul_rmse")
ALARM = easy(find("machine_alarm"), "false_alarms_per_week")


STEPS = {name: LineSettings(train={"steps": 8}) for name in ("traffic", "machine_life", "machine_alarm")}


@contextmanager
def opened_home(folder):
    settings = Settings(home=folder / "home", lines=STEPS)
    init_home(settings, now_ns=Clock()())
    with open_home(settings, clock=Clock()) as opened:
        yield opened


@pytest.fixture
def home(tmp_path):
    with opened_home(tmp_path) as opened:
        yield opened


def copied(made, tmp_path):
    """A home that was made once for all, to go on with."""
    shutil.copytree(made / "home", tmp_path / "home")
    return opened_home(tmp_path)


def bring(home, line, path, device):
    return imports.import_path(home.ledger, home.books, home.blobs, line, path, device=device)


def verify(home):
    return lambda data, signature: home.repository.verify_statement(data, signature, what="forecast")


def served(home, line, **more):
    return told(home.ledger, home.blobs, line, verify=verify(home), **more)


def facts(home, kind):
    return [f for f in home.ledger.read() if f.kind == kind]


# -- a city's sensors -------------------------------------------------------------------------------------------------


def counted(hour, street=0):
    return round(1000 + 200 * street + 500 * np.sin(hour * np.pi / 12) + 90 * np.sin(hour * 1.7) + hour % 168, 1)


def street(folder, first, last, *, number=0, silent=()):
    """A file with the hours [first, last) since Monday of one street."""
    rows = [
        f"{MONDAY + timedelta(hours=h):%Y-%m-%d %H:%M:%S},{counted(h, number)}"
        for h in range(first, last)
        if h not in silent
    ]
    path = folder / f"{number}-{first}.csv"
    path.write_text("\n".join(["date_time,volume", *rows]) + "\n")
    return path


LAST = 24 * 140 + 5  # the first hour that is not recorded: in the middle of a month


@pytest.fixture(scope="module")
def made_city(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("city")
    with opened_home(tmp_path) as home:
        for number in range(3):
            bring(home, TRAFFIC, street(tmp_path, 0, LAST, number=number), f"street-{number}")
        turned = loop.turn(home, TRAFFIC)
        assert turned.release.counter == 1
    return tmp_path


@pytest.fixture
def city(made_city, tmp_path):
    """Three streets, a model in the field, and a forecast of each."""
    with copied(made_city, tmp_path) as opened:
        yield opened


def at(hour):
    return int(MONDAY.timestamp()) * 10**9 + hour * HOUR


def test_a_turn_tells_the_next_day_of_every_device_from_the_hours_before(city):
    found = facts(city, "forecast")
    release = city.ledger.get("release", "traffic/1")

    assert [f.record["device"] for f in found] == ["street-0", "street-1", "street-2"]
    assert [f.key for f in found] == [f"traffic/street-{n}/{at(LAST - 1)}/1" for n in range(3)]
    assert {f.record["model"] for f in found} == {release.record["model"]}
    assert all(release.seq < f.seq < city.ledger.get("turn_ended", "traffic/0").seq for f in found)
    one = served(city, TRAFFIC)[0].foretold
    assert (one.from_ns, one.at_ns) == (at(LAST - 336), at(LAST - 1))  # two weeks, over the edge of two months
    assert (one.due.start_ns, one.due.end_ns) == (at(LAST), at(LAST + 24))
    assert {name: np.shape(s.rows) for name, s in one.values.items()} == {
        "forecast_low": (1, 24),
        "forecast": (1, 24),
        "forecast_high": (1, 24),
    }
    low, middle, high = (np.array(one.values[n].rows[0]) for n in ("forecast_low", "forecast", "forecast_high"))
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert one.recording in {
        r["digest"] for r in city.ledger.get("session", one.device + "/" + one.session).record["manifest"]["recordings"]
    }


def test_what_is_told_is_what_the_model_says_of_these_hours(city):
    from fleetmill.seams.runtime import policies

    model = city.ledger.get("model", city.ledger.get("release", "traffic/1").record["model"]).record["files"]
    policy = policies(TRAFFIC, city.runtime, {"model.onnx": city.blobs.get(model["model.onnx"])})
    hours = np.arange(LAST - 336, LAST)
    calendar = [(LAST - 1) % 24, (LAST - 1) // 24 % 7, 0, 0]
    asked = {
        "volume": np.array([[counted(int(h)) for h in hours]], np.float32),
        "calendar": np.array([calendar], np.float32),
    }
    answer = policy.ask(asked)

    one = served(city, TRAFFIC, device="street-0")[0].foretold
    assert np.array(one.values["forecast"].rows[0]) == pytest.approx(answer["forecast"][0], rel=1e-6)


def test_looking_again_changes_nothing(city):
    head = city.ledger.head()

    assert forecasts.look(city, TRAFFIC) == forecasts.Looked(told=0, scored=0)
    assert city.ledger.head() == head


def test_a_forecast_is_scored_once_its_last_hour_was_recorded_and_not_before(city, tmp_path):
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 23), "street-0")
    assert forecasts.look(city, TRAFFIC) == forecasts.Looked(told=1, scored=0)  # from newer hours, by the same model
    bring(city, TRAFFIC, street(tmp_path, LAST + 23, LAST + 40, silent={LAST + 30}), "street-0")
    assert forecasts.look(city, TRAFFIC) == forecasts.Looked(told=1, scored=1)

    (scored,) = facts(city, "forecast_scored")
    first = city.ledger.get("forecast", scored.key)
    assert (first.record["device"], first.record["at_ns"]) == ("street-0", at(LAST - 1))
    one = read_foretold(city.blobs.get(first.record["document"]), "it")
    came = np.array([counted(h) for h in range(LAST, LAST + 24)], np.float32)
    low, middle, high = (np.array(one.values[n].rows[0]) for n in ("forecast_low", "forecast", "forecast_high"))
    assert scored.record["tally"]["error_abs"] == pytest.approx(np.abs(came - middle), rel=1e-5)  # by hour ahead
    assert scored.record["tally"]["inside"] == ((came >= low) & (came <= high)).astype(float).tolist()
    assert scored.record["tally"]["rows"] == [1.0] * 24

    shown = next(t for t in served(city, TRAFFIC, after=0) if t.fact == first.seq)
    assert shown.scored["mae"] == pytest.approx(float(np.abs(came - middle).mean()), rel=1e-5)
    record = TrackRecords(city.ledger).of(TRAFFIC)
    assert (record.told, record.scored, record.of, record.resampled) == (5, 1, 1, "forecasts")
    assert record.metrics["mae"].value == pytest.approx(shown.scored["mae"])
    assert record.metrics["mae"].low is None  # one proves nothing
    assert TrackRecords(city.ledger).of(TRAFFIC, "street-1").scored == 0


def test_hours_that_nobody_counted_are_in_no_error(city, tmp_path):
    silent = set(range(LAST, LAST + 6))
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 30, silent=silent), "street-0")
    forecasts.look(city, TRAFFIC)

    (scored,) = facts(city, "forecast_scored")
    assert scored.record["tally"]["rows"] == [0.0] * 6 + [1.0] * 18
    assert scored.record["tally"]["error_abs"][:6] == [0.0] * 6


def test_a_day_that_nobody_recorded_is_told_and_counted_as_such(city, tmp_path):
    bring(city, TRAFFIC, street(tmp_path, LAST + 100, LAST + 130), "street-0")
    forecasts.look(city, TRAFFIC)

    record = TrackRecords(city.ledger).of(TRAFFIC)
    assert (record.scored, record.unmeasured, record.metrics) == (0, 1, {})
    shown = next(t for t in served(city, TRAFFIC, after=0) if t.scored is not None)
    assert shown.scored == {}


def test_a_new_model_tells_the_same_instant_again(city, tmp_path):
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 40), "street-0")
    assert loop.turn(city, TRAFFIC).release.counter == 2

    newest = {t.foretold.device: t.foretold for t in served(city, TRAFFIC)}
    assert {f.release for f in newest.values()} == {2}
    assert newest["street-1"].at_ns == at(LAST - 1)
    assert len(facts(city, "forecast")) == 6
    assert len(facts(city, "forecast_scored")) == 1


def test_a_score_does_not_depend_on_what_came_after_the_day(city):
    one = served(city, TRAFFIC, device="street-0")[0].foretold
    hours = np.arange(LAST - 336, LAST + 100)
    whole = Episode(
        device="street-0",
        session="s",
        start_ns=at(LAST - 336),
        end_ns=at(LAST + 100),
        times_ns=np.array([at(int(h)) for h in hours], np.int64),
        columns={"volume": np.array([counted(int(h)) for h in hours], np.float32)},
    )

    def until(rows):
        return replace(whole, times_ns=whole.times_ns[:rows], columns={"volume": whole.columns["volume"][:rows]})

    assert TRAFFIC.forecast.score(one.episode(), until(336 + 23)) is None
    early, late = (TRAFFIC.forecast.score(one.episode(), until(n)) for n in (336 + 24, 336 + 100))
    assert {n: v.tolist() for n, v in early.items()} == {n: v.tolist() for n, v in late.items()}


def test_killed_at_any_effect_on_the_disk_looking_again_ends_in_the_same_facts(city, tmp_path):
    """These effects are the blobs'; the ledger takes all facts of a step or none."""
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 40), "street-0")
    before = city.ledger.head()[0]
    for nth in range(1, 100):
        try:
            with killed_at(nth):
                forecasts.look(city, TRAFFIC)
        except Killed:
            continue
        break
    assert nth > 3

    assert [f.kind for f in city.ledger.read(after=before)] == ["forecast_scored", "forecast"]
    assert forecasts.look(city, TRAFFIC) == forecasts.Looked(told=0, scored=0)


@pytest.mark.parametrize("nth", [0, 1])
def test_killed_before_either_append_the_facts_are_the_same(city, tmp_path, monkeypatch, nth):
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 40), "street-0")
    before, real, left = city.ledger.head()[0], city.ledger.append, [nth]

    def dying(drafts):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(drafts)

    with monkeypatch.context() as patch:
        patch.setattr(city.ledger, "append", dying)
        with pytest.raises(Killed):
            forecasts.look(city, TRAFFIC)
    assert len(list(city.ledger.read(after=before))) == nth

    forecasts.look(city, TRAFFIC)
    assert [f.kind for f in city.ledger.read(after=before)] == ["forecast_scored", "forecast"]
    assert forecasts.look(city, TRAFFIC) == forecasts.Looked(told=0, scored=0)


# -- an engine --------------------------------------------------------------------------------------------------------


def engines(lives, *, first=1):
    """The table of some engines: cycles [first, life] of each, wear in every sensor."""
    rows = []
    for engine, life in lives.items():
        wear = np.linspace(0.0, 1.0, life)
        rows += [
            " ".join([str(engine), str(c), *(f"{n + wear[c - 1] * (n % 3):.4f}" for n in range(24))])
            for c in range(first, life + 1)
        ]
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def made_plant(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("plant")
    with opened_home(tmp_path) as home:
        path = tmp_path / "train.txt"
        path.write_text(engines({n: 60 + 5 * n for n in range(1, 13)}))
        bring(home, LIFE, path, "old")
        running = tmp_path / "test.txt"
        running.write_text("\n".join(engines({1: 120}).splitlines()[:80]) + "\n")
        bring(home, LIFE, running, "new")
        assert loop.turn(home, LIFE).release.counter == 1
    return tmp_path


@pytest.fixture
def plant(made_plant, tmp_path):
    """Eight engines that failed, and one that runs: its file says nothing of its end."""
    with copied(made_plant, tmp_path) as opened:
        yield opened


def test_cycles_left_are_told_of_engines_that_live_and_scored_when_the_life_has_ended(plant, tmp_path):
    (fact,) = facts(plant, "forecast")  # of an engine that failed it is known
    assert fact.record["device"] == "new-engine-1"
    one = read_foretold(plant.blobs.get(fact.record["document"]), "it")
    assert len(one.times_ns) == 1
    assert one.values["rul"].unit == "{cycle}"
    assert forecasts.look(plant, LIFE).scored == 0

    rest = tmp_path / "rest.txt"  # runs to the failure, after 120 cycles
    rest.write_text(engines({1: 120}, first=81))
    bring(plant, LIFE, rest, "new")
    assert forecasts.look(plant, LIFE) == forecasts.Looked(told=0, scored=1)
    (scored,) = facts(plant, "forecast_scored")
    assert scored.record["tally"]["error_abs"] == pytest.approx(abs(one.values["rul"].rows[0] - 40.0), abs=1e-4)
    assert TrackRecords(plant.ledger).of(LIFE).metrics["rul_mae"].value == scored.record["tally"]["error_abs"]


def test_an_engine_that_goes_on_is_told_of_anew_and_its_model_remembers_the_whole_life(plant, tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("\n".join(engines({1: 120}, first=81).splitlines()[:20]) + "\n")
    bring(plant, LIFE, path, "new")

    assert forecasts.look(plant, LIFE) == forecasts.Looked(told=1, scored=0)
    one = served(plant, LIFE)[0].foretold
    assert one.from_ns == min(f.record["manifest"]["start_ns"] for f in facts(plant, "session"))
    assert (one.at_ns - one.from_ns) // HOUR == 99


def test_labels_that_come_later_score_it(plant):
    session = plant.ledger.get("session", "new-engine-1/life").record["manifest"]
    label_set(plant, "machine_life", [label(session, session["end_ns"] - HOUR, session["end_ns"], "label.rul", 37.0)])

    assert forecasts.look(plant, LIFE).scored == 1
    one = read_foretold(plant.blobs.get(facts(plant, "forecast")[0].record["document"]), "it")
    (scored,) = facts(plant, "forecast_scored")
    assert scored.record["tally"]["error_abs"] == pytest.approx(abs(one.values["rul"].rows[0] - 37.0), abs=1e-4)


def label(session, start_ns, end_ns, feature, value):
    return Label(
        device=session["device"],
        session=session["name"],
        feature=feature,
        start_ns=start_ns,
        end_ns=end_ns,
        value=value,
        source="inspector",
    )


def label_set(home, line, labels):
    digest = home.blobs.put(outside.written(find(line), labels))
    record = {"line": line, "digest": digest, "sources": ["inspector"], "rows": len(labels), "sessions": []}
    home.ledger.append([Draft(kind="labels", key=f"{line}/{len(facts(home, 'labels'))}", record=record)])


def test_a_recording_without_any_label_is_told_of_too(plant, tmp_path):
    """A device in the field records no label: what its line cannot learn from it can tell of."""
    importer = LIFE.importers[0]

    def read(files):
        for foreign in importer.read(files):
            yield replace(foreign, messages=(m for m in foreign.messages if m.topic != "label.rul"))

    bare = replace(LIFE, importers=(replace(importer, read=read),))
    path = tmp_path / "test.txt"
    path.write_text(engines({7: 50}))
    bring(plant, bare, path, "field")

    assert forecasts.look(plant, LIFE).told == 1
    assert served(plant, LIFE, device="field-engine-7")[0].foretold.values["rul"].rows[0] >= 0


# -- alarms -----------------------------------------------------------------------------------------------------------


def watched(folder, first, last, *, marked=None, name="pump", odd=()):
    """A sensor's hours [first, last); marked: what a person said of each."""
    chance = np.random.default_rng(5)
    noise = chance.normal(size=5000)
    rows = []
    for h in range(first, last):
        value = 10 + 2 * np.sin(h * np.pi / 12) + 0.1 * noise[h] + (50.0 if h in odd else 0.0)
        label = [] if marked is None else [str(int(h in marked))]
        rows.append(",".join([f"{MONDAY + timedelta(hours=h):%Y-%m-%d %H:%M:%S}", f"{value:.3f}", *label]))
    header = "timestamp,value" + (",label" if marked is not None else "")
    path = folder / f"{name}.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def made_hall(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("hall")
    with opened_home(tmp_path) as home:
        for n in range(12):
            odd = set(range(200 + n, 204 + n))
            bring(home, ALARM, watched(tmp_path, 0, 400, marked=odd, odd=odd, name=f"m{n}"), "hall")
        bring(home, ALARM, watched(tmp_path, 0, 300, odd=set(range(150, 154))), "hall")
        assert loop.turn(home, ALARM).release.counter == 1
    return tmp_path


@pytest.fixture
def hall(made_hall, tmp_path):
    """Twelve machines that somebody looked at, and a pump that nobody did."""
    with copied(made_hall, tmp_path) as opened:
        yield opened


def test_alarms_are_told_since_the_last_look_and_scored_when_somebody_has_looked(hall, tmp_path):
    (first,) = served(hall, ALARM)
    assert first.foretold.device == "hall-pump"
    assert len(first.foretold.times_ns) == 300
    rung = first.foretold.alarms("alarm")
    assert any(at(150) <= when < at(154) for when in rung)
    shown = first.shown()
    assert shown["document"]["times_ns"] == list(rung)
    assert shown["alarms"] == len(rung) == len(shown["document"]["values"]["score"]["rows"])

    bring(hall, ALARM, watched(tmp_path, 300, 420, odd=set(range(350, 354))), "hall")
    assert forecasts.look(hall, ALARM) == forecasts.Looked(told=1, scored=0)
    second = served(hall, ALARM)[0].foretold
    assert (second.times_ns[0], second.times_ns[-1]) == (at(300), at(419))
    assert second.from_ns == at(0)  # it remembers what is usual here
    again = second.alarms("alarm")

    session = hall.ledger.get("session", f"hall-pump/{first.foretold.session}").record["manifest"]
    label_set(
        hall,
        "machine_alarm",
        [
            label(session, at(0), at(300), "label.anomaly", 0.0),
            label(session, at(149), at(155), "label.anomaly", 1.0),
        ],
    )
    assert forecasts.look(hall, ALARM) == forecasts.Looked(told=0, scored=1)
    (scored,) = facts(hall, "forecast_scored")
    counts = {n: v for n, v in scored.record["tally"].items() if n in ("windows", "found", "alarms", "true", "false")}
    hits = sum(at(149) <= when < at(155) for when in rung)
    late = sum(when - at(0) >= 48 * HOUR for when in rung)
    assert counts == {"windows": 1.0, "found": 1.0, "alarms": late, "true": hits, "false": late - hits}
    assert again  # of the second look nobody has said anything
    assert TrackRecords(hall.ledger).of(ALARM).metrics["recall"].value == 1.0


def test_a_new_model_does_not_ring_again_for_what_was_looked_at(hall):
    before = len(facts(hall, "forecast"))
    champion = hall.ledger.get("release", "machine_alarm/1").record
    hall.ledger.append([Draft(kind="release", key="machine_alarm/2", record={**champion, "counter": 2})])

    assert forecasts.look(hall, ALARM) == forecasts.Looked(told=0, scored=0)
    assert len(facts(hall, "forecast")) == before


# -- who asks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    def ran(home, *words):
        monkeypatch.setattr(sys, "argv", ["fleetmill", *map(str, words), "--home", str(home)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return ran


def test_the_command_line_prints_and_looks(city, tmp_path, run):
    where = city.settings.home
    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 40), "street-0")
    code, out, _ = run(where, "forecasts", "--device", "street-1")
    assert code == 0
    assert "street-1: at 2024-05-20T04:00:00Z, by release 1 (model " in out
    assert "forecast_high [1]: " in out
    assert "1 told, 0 scored" in out

    code, out, _ = run(where, "forecasts", "--line", "traffic", "--look")
    assert (code, out.splitlines()[0]) == (0, "looked: 1 scored, 1 told")
    shown = json.loads(run(where, "forecasts", "--json")[1])
    assert (shown["line"], len(shown["forecasts"]), shown["track_record"]["scored"]) == ("traffic", 3, 1)
    assert run(where, "forecasts", "--look")[0] == 2


def test_consumers_get_the_newest_signed_with_the_track_record(city):
    with in_process(make_app(city)) as client:
        told = client.get("/v1/forecasts", params={"line": "traffic"}, headers=HERE).json()
        one = told["forecasts"][0]
        city.repository.verify_statement(
            one["signed"].encode(), Signature(keyid=one["keyid"], sig=one["signature"]), what="it"
        )
        assert int(one["document"]["times_ns"][0]) == json.loads(one["signed"])["times_ns"][0] == at(LAST - 1)
        assert one["document"]["values"]["forecast"]["unit"] == "1"
        assert told["track_record"] == {
            "told": 3, "scored": 0, "unmeasured": 0, "metrics": {}, "of": 0, "resampled": "forecasts",
        }  # fmt: skip
        after = client.get("/v1/forecasts", params={"after": told["forecasts"][1]["fact"]}, headers=HERE).json()
        assert [f["document"]["device"] for f in after["forecasts"]] == ["street-2"]

        for path, status in (("line=nowhere", 404), ("device=nobody", 404), ("after=soon", 400)):
            assert client.get(f"/v1/forecasts?{path}", headers=HERE).status_code == status
        assert client.get("/v1/forecasts", headers={"host": "factory.example"}).status_code == 401


def test_a_home_without_forecasts_says_what_they_want(home):
    with pytest.raises(NotFoundError, match="fleetmill forecasts --look --line traffic"):
        line_of(home.ledger, "traffic")
    with pytest.raises(LineError, match="tells nothing beforehand"):
        forecasts.look(home, tiny_line)
    assert forecasts.look(home, TRAFFIC) == forecasts.Looked(told=0, scored=0)  # nothing in the field


def test_a_changed_document_or_signature_is_seen(city):
    fact = facts(city, "forecast")[0]
    path = city.blobs.path(fact.record["document"])
    held = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(held.replace(b'"release":1', b'"release":7'))
    with pytest.raises((IntegrityError, TrustError)):
        served(city, TRAFFIC)
    path.write_bytes(held)
    assert served(city, TRAFFIC)

    shutil.rmtree(city.settings.home / "blobs")
    with pytest.raises(NotFoundError):
        served(city, TRAFFIC)


def test_books_and_receipts_are_what_they_were(city, tmp_path):
    from fleetmill import receipts

    bring(city, TRAFFIC, street(tmp_path, LAST, LAST + 40), "street-0")
    forecasts.look(city, TRAFFIC)

    assert city.books.faults() == city.books.verify() == []
    assert receipts.cross_check(city) == []


def test_the_interval_is_over_devices_where_there_are_enough():
    def one(error):
        return {"rows": np.asarray(1.0), "error": np.asarray(error)}

    def pool(tallies):
        return {"mae": float(np.mean([t["error"] for t in tallies]))}

    alike = [(f"d{n}", one(float(n))) for n in range(6) for _ in range(30)]
    by_device = track_record(200, alike, 0, pool)
    by_forecast = track_record(200, [("d", tally) for _, tally in alike], 0, pool)

    assert (by_device.resampled, by_forecast.resampled) == ("devices", "forecasts")
    assert by_device.metrics["mae"].value == by_forecast.metrics["mae"].value == 2.5
    wide, narrow = (r.metrics["mae"].high - r.metrics["mae"].low for r in (by_device, by_forecast))
    assert wide > 2 * narrow


# -- real counts ------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_on_real_counts_the_next_day_is_told_and_scored(home, data, tmp_path):
    whole = (data / "city-hourly/hourly_traffic_volume.csv").read_text().splitlines()
    column = whole[0].split(",").index("date_time")
    early, late = ([whole[0]] for _ in range(2))
    for row in whole[1:]:
        when = row.split(",")[column]
        if "2016-01" <= when < "2016-12-20":
            early.append(row)
        elif "2016-12-20" <= when < "2016-12-23":
            late.append(row)
    path = tmp_path / "i94.csv"
    path.write_text("\n".join(early) + "\n")
    bring(home, TRAFFIC, path, "i94")
    assert loop.turn(home, TRAFFIC).release.counter == 1
    path.write_text("\n".join(late) + "\n")
    bring(home, TRAFFIC, path, "i94")

    assert forecasts.look(home, TRAFFIC) == forecasts.Looked(told=1, scored=1)
    record = TrackRecords(home.ledger).of(TRAFFIC)
    assert 0 < record.metrics["mae"].value < 3000
