"""One real demo from its command to its report: processes, accidents, page, numbers, receipts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from html import unescape

import httpx
import pytest

from browser import check, chromium, open_browser
from fleetmill.core import canonical
from fleetmill.demo.accidents import Kind
from fleetmill.demo.film import MOST_BYTES
from fleetmill.home import open_home
from fleetmill.settings import read_settings

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "fleetmill.cli"]


def run(*words):
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, what was said, the live page as it was when the devices came up, facts then) of a finished demo."""
    folder, said, seen = tmp_path_factory.mktemp("demo") / "out", [], {}
    words = ["demo", "--quick", "--seed", "86", "--devices", "4", "--out", str(folder)]
    child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    reader = threading.Thread(target=lambda: said.append(child.stdout.read()))
    reader.start()
    for line in child.stderr:
        said.append(line)
        if found := re.search(r"watch them at (http://\S+)", line):
            page = httpx.get(found[1], timeout=30)
            seen = {"status": page.status_code, "text": page.text, "address": found[1]}
    child.wait()
    reader.join()
    child.stdout.close()
    child.stderr.close()
    assert child.returncode == 0, "".join(said)
    return folder, "".join(said), seen


@pytest.fixture
def home(demo):
    with open_home(read_settings(home=demo[0] / "home"), own=False) as opened:
        yield opened


def test_the_page_is_there_before_the_first_turn(demo):
    _, _, seen = demo

    assert seen["status"] == 200
    assert "arm-03" in seen["text"]
    assert "turn_ended" not in seen["text"]


def test_each_accident_was_done_and_ended_as_promised(home):
    done, ended = ({f.key: f for f in home.ledger.read(kind=k)} for k in ("accident", "accident_ended"))

    assert sorted(f.record["what"] for f in done.values()) == sorted(k.value for k in Kind)
    assert done.keys() == ended.keys()
    for key, fact in ended.items():
        assert fact.record["kept"] is True, (done[key].record, fact.record)
        assert fact.record["faults"] == []
        assert fact.record["chain"] < fact.seq
        assert fact.record["facts"], key
        assert all(home.ledger.head()[0] >= seq > 0 for seq in fact.record["facts"])


def test_the_planted_model_never_went_out(home):
    (entered,) = home.ledger.read(kind="entered")
    file = home.ledger.get("model", entered.record["model"]).record["files"]["model.onnx"]

    assert all(f.record["model_file"] != file for f in home.ledger.read(kind="release"))
    assert all(f.record["report"]["running"] != file for f in home.ledger.read(kind="deployment"))


def test_every_number_of_the_report_follows_again_and_one_that_was_changed_shows(demo, tmp_path):
    folder, _, _ = demo
    whole = run("report", "--verify", folder / "report.html", "--json")
    told = json.loads(whole.stdout)
    assert (whole.returncode, told["faults"]) == (0, [])
    assert told["numbers"] > 100

    text = (folder / "report.html").read_text()
    numbers = list(re.finditer(r'(<data class="num" value=")([^"]*)("[^>]*>)([^<]*)(</data>)', text))
    digits = [m for m in numbers if re.fullmatch(r"\d+(\.\d+)?", m[4])]
    assert len(digits) > 80
    for m in (digits[0], digits[len(digits) // 2], digits[-1]):
        changed = text[: m.start(4)] + str(float(m[4]) + 1) + text[m.end(4) :]
        (tmp_path / "changed.html").write_text(changed)
        found = run("report", "--verify", tmp_path / "changed.html", "--home", folder / "home")
        assert found.returncode == 3, m[0]
        assert m[4] in found.stdout


def test_words_with_digits_and_no_source_are_refused(demo, tmp_path):
    folder, _, _ = demo
    text = (folder / "report.html").read_text().replace("</main>", "<p>and 99 % better</p></main>")
    (tmp_path / "report.html").write_text(text)

    found = run("report", "--verify", tmp_path / "report.html", "--home", folder / "home")

    assert found.returncode == 3
    assert "digits without a source" in found.stdout


def test_a_number_whose_tallies_were_changed_does_not_follow(demo, tmp_path):
    folder, _, _ = demo
    shutil.copytree(folder / "home", tmp_path / "home")
    shutil.copy(folder / "report.html", tmp_path / "report.html")
    with open_home(read_settings(home=tmp_path / "home"), own=False) as home:
        measured = home.ledger.get("measured", "arm/control").record["trials"]
        tallies = canonical.loads(home.blobs.get(measured))
        tallies[0][0]["success"] = 1.0 - tallies[0][0]["success"]
        home.blobs.path(measured).chmod(0o644)
        home.blobs.path(measured).write_bytes(canonical.dumps(tallies))

    found = run("report", "--verify", tmp_path / "report.html")

    assert found.returncode == 3


def test_the_report_shows_the_events_and_three_films_that_fit(demo):
    folder, said, _ = demo
    text = unescape((folder / "report.html").read_text())

    assert all(kind.value in text for kind in Kind)
    for name in ("report.gif", "report-median.gif", "report-worst.gif"):
        assert 1000 < (folder / name).stat().st_size <= MOST_BYTES
        assert name == "report.gif" or f'href="{name}"' in text
    assert "runs, and signed so:" in text or "takeover" not in said
    assert json.loads((folder / "report.json").read_text())["events"]


@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1024, 1920])
def test_the_real_report_has_no_fault_in_a_browser(demo, tmp_path, width):
    with open_browser(tmp_path / "profile") as browser:
        for dark in (False, True):
            with browser.page((demo[0] / "report.html").as_uri(), width=width, dark=dark) as page:
                page.screenshot(tmp_path / f"report-{width}.png")
                page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
                assert check(page) == []
                assert (tmp_path / f"report-{width}.png").stat().st_size > 10_000


def test_why_and_fate_agree_about_every_interval_and_every_model(demo):
    found = run("why", "--check-all", "--home", demo[0] / "home")

    assert found.returncode == 0, found.stdout + found.stderr


def test_books_chain_and_audit_agree(demo, home):
    assert home.books.faults() == []
    assert home.books.verify() == []
    assert "audit: agrees" in demo[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["report", "nothing.html", "--verify"], 2, "no such file"),
        (["report", "{folder}/report.html"], 2, "add --verify"),
        (["report", "{folder}/report.gif", "--verify", "--home", "{folder}/home"], 2, "cannot be read as a page"),
        (["report", "{folder}/report.json", "--verify"], 3, "do not follow"),
        (["demo", "--out", "{folder}"], 2, "is not empty"),
    ],
)
def test_bad_input_gets_one_clear_line(demo, words, code, said):
    found = run(*(w.format(folder=demo[0]) for w in words))

    assert found.returncode == code
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
