"""The page over HTTP: who gets it, under which headers, and that nothing in a home can write into it."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import numpy as np
import pytest
import simplejpeg
from anyio.from_thread import start_blocking_portal

from finished import settings
from fleetmill.api.door import make_app
from fleetmill.core.finding import Finding, Findings
from fleetmill.core.line import Feature, Foreign, Importer, Line, Message
from fleetmill.home import init_home, open_home
from fleetmill.receive.imports import import_path
from fleetmill.seams.ledger import Draft
from fleetmill.settings import Settings
from fleetmill.testing import in_process, tiny_line
from fleetmill.testing.kit import InProcess

LOCAL = {"Host": "127.0.0.1:8787"}
EVIL = '<script>alert(1)</script>"onload="x'
JPEG = simplejpeg.encode_jpeg(np.full((16, 24, 3), 90, np.uint8))


class Reader(HTMLParser):
    """Tags, attributes and ids of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.ids = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]


@pytest.fixture
def home(tmp_path):
    init_home(Settings(home=tmp_path / "home"), now_ns=time.time_ns())
    with open_home(Settings(home=tmp_path / "home")) as found:
        yield found


def seeing(line: Line) -> Line:
    """The tiny line with a camera, and an importer that makes a session of pictures."""
    camera = Feature(name="camera", kind="observation", dtype="uint8", shape=(16, 24, 3), unit="1", hold_ns=10**8)

    def read(files):
        for number, name in enumerate(files.names()):
            start = 10**18 + number * 10**12
            picture = {"data": np.frombuffer(JPEG, np.uint8), "format": "jpeg"}
            messages = [
                Message(topic="camera", log_time_ns=start + n, publish_time_ns=start + n, value=picture)
                for n in range(0, 10**9, 10**8)
            ]
            yield Foreign(device="", session=name.partition(".")[0], time_base="utc", tags={}, messages=iter(messages))

    importer = Importer(name="pictures", detects=lambda files: True, read=read)
    return replace(line, features=(*line.features, camera), importers=(importer,))


def get(home, path="/", headers=LOCAL):
    with in_process(make_app(home, find=lambda name: tiny_line)) as client:
        return client.get(path, headers=headers)


def test_the_page_of_a_finished_demo_shows_its_devices_steps_curve_and_facts(finished):
    with open_home(settings(finished.parent), own=False) as home:
        answer = get(home)
        seq, head = home.ledger.head()

    found = Reader(answer.text)
    assert answer.status_code == 200
    assert f'<code title="{head}">{head[:12]}</code>' in answer.text
    assert f"<dd>{seq}</dd>" in answer.text
    assert "balanced" in answer.text
    for text in ("d0", "d1", "d2", "old", "confirmed", "healthy", "3 turns, release 2", "held"):
        assert text in answer.text
    assert re.findall(r"<h4>(\w+)</h4>", answer.text)[:7] == [
        "live", "receive", "refine", "train", "judge", "release", "confirm",
    ]  # fmt: skip
    assert len(found.ids) == len(set(found.ids))


@pytest.mark.parametrize("path", ["/", "/live"])
@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example:8787", "my_evil.example", "evil.example:99999", "a b", "[::1", ""]
)
def test_another_host_name_gets_nothing(home, path, name):
    answer = get(home, path, {"Host": name})

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "is served to this machine alone" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1:1", "[::1]:8787", "LocalHost:8787"])
def test_this_machine_may_be_called_by_each_of_its_names(home, name):
    assert get(home, "/", {"Host": name}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/live"])
def test_another_machine_gets_nothing(home, path):
    app = make_app(home, find=lambda name: tiny_line)
    with start_blocking_portal() as portal:
        transport = InProcess(portal, app)
        transport._inner = httpx.ASGITransport(app, client=("192.0.2.7", 5000), raise_app_exceptions=False)
        answer = httpx.Client(transport=transport, base_url="http://127.0.0.1").get(path)

    assert answer.status_code == 401


def test_a_page_from_elsewhere_cannot_open_the_stream(home):
    answer = get(home, "/live", {**LOCAL, "Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 401


def test_nobody_can_write_through_the_page(home):
    with in_process(make_app(home, find=lambda name: tiny_line)) as client:
        codes = {client.request(m, "/", headers=LOCAL).status_code for m in ("POST", "PUT", "DELETE", "PATCH")}

    assert codes == {405}


def test_the_headers_allow_nothing_but_the_page_itself(home):
    answer = get(home)

    policy = dict(p.strip().split(" ", 1) for p in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["style-src"])
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_refers_to_nothing_outside_itself_and_holds_no_style_or_handler_in_a_tag(finished):
    with open_home(settings(finished.parent), own=False) as home:
        found = Reader(get(home).text)

    fetched = [a for a in found.attributes if a[1] in ("src", "href", "srcset", "action", "data", "poster")]
    assert fetched
    assert [a for a in fetched if not a[2].startswith(("data:", "#"))] == []
    assert [a for a in found.attributes if a[1] == "style" or a[1].startswith("on")] == []
    assert found.tags.count("script") == found.tags.count("style") == 1


def test_names_and_reasons_from_outside_are_only_text(home):
    device = {"name": EVIL, "number": 0, "line": "tiny", "hardware": EVIL, "public_key": "ab"}
    report = {"device": EVIL, "line": "tiny", "state": "refused", "release_counter": 1, "model_file": EVIL}
    report |= {"running": EVIL, "reason": EVIL}
    found = Findings(
        line="tiny",
        turn=0,
        head=1,
        findings=(Finding(kind=EVIL, sentence=EVIL, numbers={}, sheet=home.blobs.put(b"x")),),
    )
    home.ledger.append(
        [
            Draft(kind="device", key=EVIL, record=device),
            Draft(kind="deployment", key=EVIL, record={"report": report, "signature": ""}),
            Draft(kind="findings", key="tiny/0", record={"document": home.blobs.put(found.document())}),
            Draft(kind=EVIL, key=EVIL, record={}),
        ]
    )

    text = get(home).text

    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert '"onload=' not in text
    assert Reader(text).tags.count("script") == 1


def test_an_empty_home_says_what_to_do_next(home):
    text = get(home).text

    assert "An empty home" in text
    assert f"fleetmill device enrol NAME --line LINE --home {home.settings.home}" in text
    assert "The ledger is empty." in text
    assert "NOT BALANCED" not in text


def test_a_home_of_imports_shows_the_last_picture_as_it_was_recorded_and_what_to_do_next(home, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.x", "b.x"):
        (tmp_path / "in" / name).write_bytes(b"")
    import_path(home.ledger, home.books, home.blobs, seeing(tiny_line), tmp_path / "in", device="old")

    text = get(home).text

    assert f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}" in text
    assert "Last frame of /camera: old, last recording of old/b" in text
    assert "fleetmill turn --line tiny" in text
    assert "No device is enrolled: recordings come as imports." in text
    assert "none yet" in text


def test_each_line_of_a_home_has_its_own_part(home):
    for number, line in enumerate(("alpha", "beta")):
        record = {"name": f"d{number}", "number": number, "line": line, "hardware": "cpu", "public_key": "ab"}
        home.ledger.append([Draft(kind="device", key=f"d{number}", record=record)])

    text = get(home).text

    assert re.findall(r'<h2 id="(l\d)-h">(\w+)</h2>', text) == [("l0", "alpha"), ("l1", "beta")]
    assert text.index("alpha</h2>") < text.index(">d0</h4>") < text.index("beta</h2>") < text.index(">d1</h4>")


def test_findings_are_shown_with_their_sheet_and_a_lost_document_is_said(home):
    sheet = home.blobs.put(JPEG)
    found = Findings(
        line="tiny",
        turn=3,
        head=1,
        findings=(Finding(kind="weak_slices", sentence="weak at night", numbers={}, fact=7, sheet=sheet),),
    )
    home.ledger.append([Draft(kind="findings", key="tiny/3", record={"document": home.blobs.put(found.document())})])
    text = get(home).text
    home.ledger.append([Draft(kind="findings", key="tiny/4", record={"document": "0" * 64})])
    lost = get(home).text

    assert re.search(r"weak slices</span>\s+weak at night", text)
    assert "#7</span>" in text
    assert 'alt="Contact sheet: weak at night"' in text
    assert "no blob 000000000000" in lost


def test_books_that_do_not_balance_are_said_in_words(home):
    from sqlalchemy import text as sql

    record = {"name": "d0", "number": 0, "line": "tiny", "hardware": "cpu", "public_key": "ab"}
    home.ledger.append([Draft(kind="device", key="d0", record=record)])
    with home.ledger.engine.begin() as connection:
        connection.execute(sql("INSERT INTO balance VALUES (0, 20000, 'kept', '', 5, 5)"))

    found = get(home).text

    assert "NOT BALANCED" in found
    assert "device 0, day 20000: accounts differ by 5 ns and 5 bytes" in found


def test_a_recording_that_is_gone_leaves_a_word_and_the_page_stands(home, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.x").write_bytes(b"")
    (session,) = import_path(home.ledger, home.books, home.blobs, seeing(tiny_line), tmp_path / "in", device="old")
    home.blobs.path(session.recordings[0].digest).unlink()

    answer = get(home)

    assert answer.status_code == 200
    assert f"no blob {session.recordings[0].digest[:12]}" in answer.text
