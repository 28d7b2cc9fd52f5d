"""Charts, sparklines and what is seen of a recording."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fleetmill.core.line import Feature, Message
from fleetmill.core.recording import RecordingInfo
from fleetmill.seams import recordings
from fleetmill.web import glimpse, spark
from fleetmill.web.chart import Band, Chart, Point, Series, ticks

CHART = Chart(
    id="c",
    title="errors & <b>more</b>",
    description="by turn",
    x_label="turn",
    y_label="error",
    series=(
        Series(name="a", points=(Point(x=0, y=2, low=1, high=4), Point(x=1, y=1, note="held <i>"), Point(x=2, y=0.5))),
        Series(name="b", points=(Point(x=0, y=3),), joined=False),
    ),
    bands=(Band(name="control", y=2.5, low=2.0, high=3.0),),
)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart):
    return ElementTree.fromstring(chart.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def at_ns(topic, n, data, **more):
    return Message(topic=topic, log_time_ns=n * 10**8, publish_time_ns=n * 10**8, value={"data": data, **more})


def number(topic, n, *values):
    return at_ns(topic, n, np.array(values, np.float32))


def test_a_chart_is_whole_xml_named_for_those_who_cannot_see_it_and_escaped():
    found = drawn(CHART)

    assert found.find(f"{SVG}title").text == "errors & <b>more</b>"
    assert found.get("aria-labelledby") == "c-t c-d"
    assert found.find(f"{SVG}desc").text == "by turn"
    assert "held <i>" in [t.text for t in found.iter(f"{SVG}text")]


def test_points_stand_where_their_values_are():
    found = drawn(CHART)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in found.iter(f"{SVG}circle")]
    (square,) = [r for r in found.iter(f"{SVG}rect") if r.get("class") == "point"]
    heights = {t.text: float(t.get("y")) for t in found.iter(f"{SVG}text") if t.get("text-anchor") == "end"}

    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    assert circles[0][1] == pytest.approx(heights["2"], abs=0.1)
    assert circles[1][1] == pytest.approx(heights["1"], abs=0.1)
    assert float(square.get("y")) + float(square.get("height")) / 2 == pytest.approx(heights["3"], abs=0.1)


def test_no_two_series_look_alike_without_their_colour():
    one = CHART.series[1]
    many = replace(CHART, series=tuple(replace(one, name=f"s{i}") for i in range(4)))
    marks = [re.sub(r'class="series s\d"', "", many.mark(i)) for i in range(4)]

    assert len(set(marks)) == 4


def test_words_at_neighbouring_points_do_not_lie_on_each_other():
    points = tuple(Point(x=n, y=1.0, note="not enough evidence") for n in range(5))
    notes = drawn(replace(CHART, series=(Series(name="a", points=points),))).iter(f"{SVG}text")
    heights = [float(t.get("y")) for t in notes if t.get("class") == "note" and t.text == "not enough evidence"]

    assert len(heights) == 5
    assert all(abs(a - b) >= 12 for a, b in itertools.pairwise(heights))  # the size of their letters


def test_a_chart_without_points_says_so():
    empty = replace(CHART, series=(Series(name="a", points=()),), bands=())

    assert "no point yet" in [t.text for t in drawn(empty).iter(f"{SVG}text")]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1e-9), (-3, 5), (0.93, 0.98), (0, 123456.0), (5, 5)])
def test_ticks_cover_what_is_drawn_and_are_few(low, high):
    found = ticks(low, high)

    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 12


def test_one_point_alone_can_be_drawn():
    alone = replace(CHART, series=(Series(name="a", points=(Point(x=7, y=0.0),)),), bands=())

    assert len(list(drawn(alone).iter(f"{SVG}circle"))) == 1
    assert "7" in [t.text for t in drawn(alone).iter(f"{SVG}text")]


def test_a_jpeg_is_shown_as_it_was_recorded():
    data = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    found = glimpse.glimpse([at_ns("camera", n, np.frombuffer(data, np.uint8), format="jpeg") for n in range(2)])

    assert found.picture.uri == glimpse.data_uri(data)
    assert found.picture.uri.startswith("data:image/jpeg;base64,")
    assert found.picture.topic == "camera"


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels_become_a_png_that_loses_nothing(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    data = glimpse.png(7, 5, channels, pixels.tobytes())

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(5, 7, channels), pixels)
    assert glimpse.glimpse([at_ns("camera", 0, pixels)]).picture.uri == glimpse.data_uri(data)


def test_what_is_no_picture_is_not_called_one():
    found = glimpse.glimpse([at_ns("camera", 0, np.frombuffer(b"<html><script>", np.uint8), format="jpeg")])

    assert found.picture is None
    assert found.missing == "/camera: jpeg is not shown"
    assert glimpse.data_uri(b"<html>") == ""


def test_a_picture_that_is_too_large_is_not_laid_into_the_page():
    large = b"\xff\xd8\xff" + bytes(glimpse.MOST_PICTURE_BYTES)

    found = glimpse.glimpse([at_ns("camera", 0, np.frombuffer(large, np.uint8), format="jpeg")])

    assert found.missing == "/camera: a picture of 0.4 MB is not shown"


def test_a_machine_without_camera_shows_its_last_seconds_of_what_it_saw_and_did():
    messages = [
        m
        for n in range(200)
        for m in (
            number("state", n, 0.0, n, float("nan"), -n, 1.0, np.sin(n)),
            number("move", n, n % 3),
            number("label.move", n, 9.0),
            number("model.move", n, 9.0),
            number("takeover", n, float(150 <= n < 160)),
            at_ns("mode", n, "user"),
        )
    ]

    found = glimpse.glimpse(messages)
    svg = spark.strips(found, "d0 <b>")

    assert [(c.topic, len(c.values), c.components) for c in found.curves] == [("state", 4, 6), ("move", 1, 1)]
    assert found.curves[0].times_s[0] == pytest.approx(-glimpse.SECONDS)
    assert found.held_s[0] == pytest.approx((-4.9, -3.9))
    assert "nan" not in svg
    assert "d0 &lt;b&gt;" in svg
    ElementTree.fromstring(svg)


def test_takeovers_are_counted_by_their_beginnings():
    def held(*values):
        return glimpse.held([number("takeover", n, v) for n, v in enumerate(values)])

    assert held(0, 1, 1, 0, 1).onsets == 2
    assert held(1, 0, 0) == glimpse.Held(onsets=1, at_start=True, at_end=False)
    assert held(0, 0).onsets == 0
    assert glimpse.held([number("state", 0, 1.0)]) is None


def test_bars_tell_none_from_not_read():
    svg = spark.bars([3, 0, None], "takeovers <x>")

    assert "takeovers &lt;x&gt;: 3, 0, not read" in svg
    assert [r.get("class") for r in ElementTree.fromstring(svg).iter("rect")] == ["some", "none", "gap"]
    assert spark.bars([], "x") == ""


def test_the_end_of_a_recording_is_read_through_its_index():
    feature = Feature(name="x", kind="observation", dtype="float32", shape=(1,), unit="1")
    info = RecordingInfo(device="d", session="s", line="tiny", start_ns=0, end_ns=100 * 10**8)
    messages = [number("x", n, n) for n in range(100)]
    data = recordings.write_recording(info, [feature], [recordings.encode(feature, m) for m in messages])

    found = recordings.read_end(io.BytesIO(data), "here", 2.0)

    assert [float(m.value["data"][0]) for m in found] == [float(n) for n in range(79, 100)]


def test_the_end_of_a_damaged_recording_is_refused():
    from fleetmill.core.errors import IntegrityError

    with pytest.raises(IntegrityError, match="here: not a whole MCAP file"):
        recordings.read_end(io.BytesIO(b"\x89MCAP0\r\n" + b"\0" * 50), "here", 1.0)
