"""Contact sheets: what is drawn can be read again."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import simplejpeg

from fleetmill.findings import sheet
from fleetmill.findings.letters import written

SVG = "{http://www.w3.org/2000/svg}"


def picture(colour, shape=(42, 48)):
    return np.full((*shape, 3), colour, np.uint8)


def row(label, *pictures):
    return sheet.Pictures(label=label, pictures=pictures)


def decoded(data):
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def holds(image, colour):
    """Share of the image's points that have nearly that colour."""
    return float((np.abs(image.astype(int) - colour).max(axis=2) < 12).mean())


def test_every_picture_stands_on_the_sheet_and_what_is_missing_is_said():
    red, blue = (220, 20, 20), (20, 20, 220)
    image = decoded(sheet.photographs("two", [row("a", *[picture(red)] * 5), row("b", *[picture(blue)] * 4, None)]))

    assert holds(image, red) > 1.2 * holds(image, blue) > 0.1
    assert holds(image, (225, 225, 225)) > 0.02


def test_pictures_of_any_size_fit():
    for shape in ((1, 1), (42, 48), (224, 224), (1080, 1920)):
        image = decoded(sheet.photographs("t", [row("a", *[picture((10, 200, 10), shape)] * 5)]))

        assert holds(image, (10, 200, 10)) > 0.2
        assert image.shape[1] < 1600


def test_the_same_moments_give_the_same_bytes():
    rows = [row("a", *[picture((1, 2, 3))] * 5)]

    assert sheet.photographs("t", rows) == sheet.photographs("t", rows)
    assert sheet.media_type(sheet.photographs("t", rows)) == "image/jpeg"


def lines(label, width=3):
    seconds = np.linspace(-1, 0.5, 16)
    values = np.stack([np.sin(seconds * (i + 1)) * (i + 1) for i in range(width)], axis=1)
    return sheet.Lines(label=label, seconds={"x": seconds}, values={"x": values})


def test_numbers_are_drawn_as_lines_an_svg_that_any_browser_reads():
    drawn = sheet.plots("title", [lines("d0 <s&1>"), lines("d1")])
    tree = ElementTree.fromstring(drawn)

    assert sheet.media_type(drawn) == "image/svg+xml"
    assert len(list(tree.iter(f"{SVG}polyline"))) == 2 * 3
    assert "d0 <s&1>" in [t.text for t in tree.iter(f"{SVG}text")]


def test_of_many_components_those_that_move_most_are_drawn():
    tree = ElementTree.fromstring(sheet.plots("t", [lines("d0", width=20)]))

    assert len(list(tree.iter(f"{SVG}polyline"))) == 6
    assert any("6 of 20 components" in (t.text or "") for t in tree.iter(f"{SVG}text"))


def test_a_gap_in_the_numbers_is_left_out():
    one = lines("d0")
    one.values["x"][3, 0] = np.nan

    assert b"nan" not in sheet.plots("t", [one])


def test_letters_differ_and_strange_ones_are_question_marks():
    drawn = {written(c, scale=1).tobytes() for c in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+-.:/_(),%=?"}

    assert len(drawn) == 48
    assert written("Ω").tobytes() == written("?").tobytes()
    assert written("ab").tobytes() == written("AB").tobytes()
