"""The page as Chromium shows it: three widths, light and dark, by keyboard, while facts come in.

Screenshots are left in the test's folder; with FLEETMILL_SHOTS they go to that folder instead, to be looked at.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from serving import serve
from test_page_report import made_up
from test_page_served import seeing

from browser import check, chromium, open_browser
from finished import live_through, open_fleet
from fleetmill.home import init_home, open_home
from fleetmill.receive import roll
from fleetmill.receive.imports import import_path
from fleetmill.seams.ledger import Draft
from fleetmill.settings import LineSettings, Settings
from fleetmill.testing import tiny_line
from fleetmill.web.page import render_report

WIDTHS = (390, 1024, 1920)
LOOKS = [(width, dark) for width in WIDTHS for dark in (False, True)]
BEAT = "document.getElementById('as-of').dateTime.includes('.')"  # the script tells milliseconds, the page does not

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    folder = Path(os.environ.get("FLEETMILL_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A factory that has turned three times: a held candidate, a refusal, and a second line of pictures."""
    folder = tmp_path_factory.mktemp("grown")
    with open_fleet(folder) as fleet:
        live_through(fleet)
        pictures = folder / "pictures"
        pictures.mkdir()
        (pictures / "a.x").write_bytes(b"")
        line = replace(seeing(tiny_line), name="a-line-with-quite-a-long-name")
        import_path(fleet.home.ledger, fleet.home.books, fleet.home.blobs, line, pictures, device="eye")
        report = {"device": "d1", "line": "tiny", "state": "refused", "release_counter": 3, "model_file": "f" * 64}
        report |= {"running": "a" * 64, "reason": f"models/{'0123456789abcdef' * 4}/model.onnx: not what was signed"}
        fleet.home.ledger.append([Draft(kind="deployment", key="x", record={"report": report, "signature": ""})])
        roll.invite(fleet.home.ledger, "a-device-that-has-a-very-long-name-and-never-came", line="tiny")
        with serve(fleet.home, tiny_line) as address:
            yield fleet, address


@pytest.fixture
def empty(tmp_path):
    """A factory with a line in its settings and nothing else."""
    settings = Settings(home=tmp_path / "home", lines={"tiny": LineSettings()})
    init_home(settings, now_ns=0)
    with open_home(settings) as home, serve(home, tiny_line) as address:
        yield address


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_live_page_has_no_fault_at_any_width_in_light_and_dark(browser, grown, shots, width, dark):
    _, address = grown
    with browser.page(address, width=width, dark=dark) as page:
        page.until(BEAT, "a beat of the stream")
        page.until("!document.body.textContent.includes('being read')", "all pictures")
        page.screenshot(shots / f"live-{width}-{'dark' if dark else 'light'}.png")
        assert check(page) == []
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert check(page) == []


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_the_report_has_no_fault_at_any_width_in_light_and_dark(browser, tmp_path, shots, width, dark):
    (tmp_path / "report.html").write_text(render_report(*made_up()))
    with browser.page((tmp_path / "report.html").as_uri(), width=width, dark=dark) as page:
        page.screenshot(shots / f"report-{width}-{'dark' if dark else 'light'}.png")
        assert check(page) == []
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert check(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_factory_in_which_nothing_happened_has_no_fault_either(browser, empty, shots, width):
    with browser.page(empty, width=width) as page:
        page.until(BEAT, "a beat of the stream")
        page.screenshot(shots / f"empty-{width}.png")
        assert check(page) == []


def test_without_its_script_the_page_still_shows_everything(browser, grown):
    _, address = grown
    with browser.page(address, width=1024, script=False) as page:
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
        text = page.run("document.body.innerText")

    assert "Without its script this page stands still" in text
    assert "takeovers" in text


def test_news_appear_where_they_belong_and_focus_scroll_and_what_was_opened_stay(browser, grown):
    fleet, address = grown
    with browser.page(address, width=390) as page:
        page.until(BEAT, "a beat of the stream")
        page.run("document.querySelector('#l1-curve summary').click()")
        page.run("document.querySelector('#l1-curve .scroll').focus()")
        page.run("document.querySelector('#facts .scroll').scrollLeft = 40")
        page.run("window.kept = document.getElementById('l1-now')")
        before = page.run("document.querySelector('#facts tbody th').textContent")
        fleet.home.ledger.append([Draft(kind="of_tomorrow", key="news here", record={})])
        page.until("document.getElementById('facts').textContent.includes('news here')", "the new fact")

        assert page.run("document.querySelector('#facts tbody th').textContent") != before
        assert page.run("document.querySelector('#facts .scroll').scrollLeft") == 40
        assert page.run("document.querySelector('#l1-curve details').open") is True
        assert page.run("document.activeElement.closest('#l1-curve') !== null") is True
        assert page.run("window.kept === document.getElementById('l1-now') && window.kept.isConnected") is True
        assert page.errors() == []


def test_the_focus_stays_in_a_part_that_is_replaced(browser, grown):
    fleet, address = grown
    with browser.page(address, width=390) as page:
        page.until(BEAT, "a beat of the stream")
        page.run("document.querySelector('#facts .scroll').focus(); window.old = document.activeElement")
        fleet.home.ledger.append([Draft(kind="of_tomorrow", key="more news", record={})])
        page.until("document.getElementById('facts').textContent.includes('more news')", "the new fact")

        assert page.run("document.activeElement !== window.old && document.activeElement.matches('#facts .scroll')")


def test_a_lost_connection_is_said_and_found_again(browser, tmp_path):
    settings = Settings(home=tmp_path / "home")
    init_home(settings, now_ns=0)
    with open_home(settings) as home, serve(home, tiny_line) as address, browser.page(address, width=1024) as page:
        page.until(BEAT, "a beat of the stream")
        page.ask("Network.enable")
        page.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        page.run("window.stop()")
        lost = page.until("!document.getElementById('link').hidden && document.getElementById('link').innerText", "it")
        page.ask(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        page.until("document.getElementById('link').hidden", "the connection")

    assert lost.startswith("The connection to the factory is lost; trying again. What you see is of ")


def test_the_checks_find_what_is_wrong(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!doctype html><title>x</title><h1>a</h1><h3>b</h3><img src='http://127.0.0.1:1/x.png'>"
        "<p style='color:#aaa;background:#fff'>pale</p><div style='width:40px'><p>averyveryverylongword</p></div>"
        "<div style='width:3000px'>wide</div><div tabindex=0 style='outline:none'>no focus</div>"
        "<ul><li style='height:10px'>one<li style='margin-top:-10px'>two</ul><script>undefined_thing()</script>"
    )
    with browser.page((tmp_path / "bad.html").as_uri(), width=390) as page:
        found = "\n".join(check(page))

    for words in (
        "px wide in a window of 390",
        "leaves <p>",
        "overlap",
        'contrast: <p> "pale"',
        "an h3 follows an h1",
        "no main",
        "language or title is missing",
        "has no alt text",
        "reference: <img>",
        "console: ",
        "undefined_thing",
        "has the focus and nothing shows it",
    ):
        assert words in found
