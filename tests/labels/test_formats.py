"""Files of labels: what each format says, and that an export comes back as it went out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import simplejpeg
from desk import LINE, PERIOD, ROWS, bring, table, times
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fleetmill.cli import app
from fleetmill.core.errors import FleetmillError
from fleetmill.core.line import Feature
from fleetmill.home import init_home, open_home
from fleetmill.labels import coco, label_studio
from fleetmill.labels import table as tables
from fleetmill.labels.coco import Frame
from fleetmill.labels.exporting import Wanted, export_labels
from fleetmill.labels.frames import Place
from fleetmill.labels.importing import Asked, import_labels
from fleetmill.labels.rows import Reader, Row
from fleetmill.lines.ready import rows_of
from fleetmill.receive import inbox
from fleetmill.refine import run as refine
from fleetmill.settings import Settings
from fleetmill.testing import Clock

BOXES = Feature(name="label.boxes", kind="label", dtype="float32", shape=(3, 5), unit="1")
KIND = Feature(name="label.y", kind="label", dtype="float32", shape=(), unit="1")
CLASSES = {"hole": 1.0, "crack": 2.0}
READER = Reader(
    features={f.name: f for f in (BOXES, KIND)},
    feature="label.boxes",
    classes=CLASSES,
    moment=lambda device, text, where: int(text),
)


@pytest.fixture
def homes(tmp_path):
    """Two homes with the same recordings."""
    opened = []
    for name in ("one", "two"):
        chosen = Settings(home=tmp_path / name)
        init_home(chosen, now_ns=Clock()())
        opened.append(open_home(chosen, clock=Clock()))
    with opened[0] as one, opened[1] as two:
        for home in (one, two):
            bring(home, tmp_path, [0, 1], view=True)
        yield one, two


def enter(home, name, data, line=LINE, **asked):
    return import_labels(home.ledger, home.books, home.blobs, line, name, data, Asked(**asked))


def export(home, out, line=LINE, **wanted):
    return export_labels(home.ledger, home.blobs, line, out, Wanted(**wanted))


def column(home, name, line=LINE):
    line = replace(line, cut=refine_rows(name))
    version = refine.run(home.ledger, home.books, home.blobs, line, inbox.sessions(home.ledger, "desk"))
    return refine.open_data(home.ledger, home.blobs, version.digest).column(name), version.sources("train")


def refine_rows(name):
    return rows_of("x", name, period_ns=PERIOD)


def boxes_file(number=0, *, first=3):
    """COCO with two boxes on one frame, one on another and none on a third."""
    names = [f"anywhere/press-press/s{number}/{t}.jpg" for t in times(number)[first : first + 3]]
    notes = [(1, 1, [1, 2, 3.5, 4]), (1, 2, [0, 0, 2, 2]), (2, 1, [5, 5, 1, 1])]
    return {
        "images": [{"id": i, "file_name": n, "width": 12, "height": 8} for i, n in enumerate(names, start=1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": kind, "bbox": box} for i, (image, kind, box) in enumerate(notes)
        ],
        "categories": [{"id": 1, "name": "hole"}, {"id": 2, "name": "crack"}],
    }


def packed(value):
    return json.dumps(value).encode()


# -- COCO -------------------------------------------------------------------------------------------------------------


def test_coco_boxes_become_the_feature_and_come_back(homes, tmp_path):
    one, two = homes
    entered = enter(one, "c.json", packed(boxes_file()), source="ada", feature="label.boxes", elsewhere="none")
    assert (entered.format, entered.new, entered.sources) == ("coco", 3, ("ada",))
    held, sources = column(one, "label.boxes")
    assert (held.shape, held.dtype, sources) == ((3, 3, 5), np.float32, {"ada": 3})
    assert held[0][:2].tolist() == [[1, 2, 3.5, 4, 1], [0, 0, 2, 2, 2]]
    assert np.isnan(held[0][2]).all()
    assert np.isnan(held[2]).all()  # looked at, and nothing was there

    written = export(one, tmp_path / "out.json", format="coco", feature="label.boxes", classes=CLASSES)

    assert (written.known, written.questions, written.sessions) == (3, 2 * ROWS - 3, 2)
    told = json.loads((tmp_path / "out.json").read_text())
    assert [(c["id"], c["name"]) for c in told["categories"]] == [(1, "hole"), (2, "crack")]
    for image in told["images"]:
        pixels = simplejpeg.decode_jpeg((tmp_path / image["file_name"]).read_bytes())
        assert pixels.shape == (image["height"], image["width"], 3) == (8, 12, 3)
    again = (tmp_path / "out.json").read_bytes()
    assert enter(one, "out.json", again, source="bob", feature="label.boxes").new == 0  # nobody changed anything
    assert enter(two, "out.json", again, feature="label.boxes").sources == ("ada",)
    there, sources = column(two, "label.boxes")
    assert np.array_equal(there, held, equal_nan=True)
    assert sources == {"ada": 3}


def test_what_a_person_changed_in_an_export_is_theirs(homes, tmp_path):
    one, _ = homes
    enter(one, "c.json", packed(boxes_file()), source="auto", feature="label.boxes")
    export(one, tmp_path / "out.json", format="coco", feature="label.boxes")
    told = json.loads((tmp_path / "out.json").read_text())
    told["annotations"][0]["bbox"] = [9, 9, 1, 1]

    entered = enter(one, "out.json", packed(told), source="ada", feature="label.boxes")

    assert (entered.new, entered.sources) == (1, ("ada",))
    assert column(one, "label.boxes")[1] == {"ada": 1, "auto": 1}


def test_coco_classes_of_whole_pictures_are_a_scalar(homes):
    one, _ = homes
    value = boxes_file()
    value["annotations"] = [{"id": 1, "image_id": 1, "category_id": 2}, {"id": 2, "image_id": 2, "category_id": 1}]

    assert enter(one, "c.json", packed(value), source="ada", feature="label.y", elsewhere="0").new == 3
    assert column(one, "label.y")[0].tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["annotations"][0].update(image_id=77), "annotations[0]: image_id 77 is no image of this file"),
        (lambda v: v["annotations"][1].update(category_id=9), "annotations[1]: category_id 9 is none"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2]), "annotations[1]: bbox must be [x, y, width, height]"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, 3, None]), "bbox must be [x, y, width, height]"),
        (lambda v: v["images"][1].update(file_name="IMG_1.jpg"), "images[1]: 'IMG_1.jpg' names no frame"),
        (lambda v: v["images"][1].update(file_name="press-press/s0/17.jpg"), "images[1]: [17, 18) lies outside"),
        (lambda v: v["annotations"].extend([v["annotations"][0]] * 3), "images[0]: label.boxes takes at most 3 boxes"),
        (lambda v: v.update(images=3), "images must be list"),
        (lambda v: v["annotations"].clear(), "holds no label; read as coco"),
    ],
)
def test_a_coco_file_that_cannot_be_is_refused_by_its_entry(homes, change, says):
    one, _ = homes
    value = boxes_file()
    change(value)
    with pytest.raises(FleetmillError, match=re.escape(says)) as refusal:
        enter(one, "c.json", packed(value), source="ada", feature="label.boxes")
    assert str(refusal.value).startswith("c.json")
    assert list(one.ledger.read(kind="labels")) == []


def test_coco_cannot_hold_a_number_that_is_no_class(homes, tmp_path):
    one, _ = homes
    enter(one, "a.csv", table([0]), source="ada")
    with pytest.raises(FleetmillError, match=r"COCO holds boxes and whole numbers of classes\. Use --format csv"):
        export(one, tmp_path / "out.json", format="coco", feature="label.y")


# -- Label Studio -----------------------------------------------------------------------------------------------------


def task(number=0, results=(), **changes):
    data = {"device": "press-press", "session": f"s{number}", "start": str(times(number)[0])}
    data |= {"end": str(times(number)[-1] + PERIOD), **changes.pop("data", {})}
    return {"id": 7, "data": data, "annotations": [{"result": list(results)}], **changes}


def region(start, end, text, name="label.y"):
    value = {"start": start, "end": end, "timeserieslabels": [text]}
    return {"from_name": name, "to_name": "shown", "type": "timeserieslabels", "value": value}


NUMBERS = replace(LINE, features=tuple(f for f in LINE.features if f.name != "view"))


def test_regions_of_a_series_become_the_feature_with_both_ends(homes):
    one, _ = homes
    # seconds since the start, and text
    told = [region(0.2, 0.4, "hole"), region(str(times(0)[10]), str(times(0)[11]), "2")]

    entered = enter(one, "t.json", packed([task(results=told)]), source="ada", classes=CLASSES, elsewhere="0")

    assert (entered.format, entered.sources) == ("label-studio", ("ada",))
    held = column(one, "label.y")[0]
    assert held.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_series_goes_out_with_its_curves_and_comes_back(homes, tmp_path):
    one, two = homes
    told = [region(0.2, 0.4, "hole"), region(1.0, 1.1, "2")]
    enter(one, "t.json", packed([task(results=told)]), source="ada", classes=CLASSES, elsewhere="0")
    out = tmp_path / "out.json"

    written = export(one, out, NUMBERS, format="label-studio", feature="label.y", classes=CLASSES)

    first, second = json.loads(out.read_text())
    assert sorted(first["data"]["series"]) == ["time", "x[0]", "x[1]", "x[2]"]
    assert first["data"]["series"]["time"][:3] == [0.0, 0.1, 0.2]
    assert second["predictions"] == []
    assert (written.sessions, written.questions) == (2, 1)
    config = ElementTree.parse(tmp_path / "out-config.xml")
    assert [e.get("value") for e in config.iter("Label")] == ["0", "crack", "hole"]
    assert [e.get("column") for e in config.iter("Channel")] == ["x[0]", "x[1]", "x[2]"]
    assert enter(one, "out.json", out.read_bytes(), source="bob", classes=CLASSES).new == 0
    assert enter(two, "out.json", out.read_bytes(), classes=CLASSES).sources == ("ada",)
    assert np.array_equal(column(two, "label.y")[0], column(one, "label.y")[0])


def test_an_annotation_takes_the_place_of_the_prediction(homes, tmp_path):
    one, _ = homes
    enter(one, "a.csv", table([0], 1.0), source="auto")
    export(one, tmp_path / "out.json", NUMBERS, format="label-studio", feature="label.y")
    told = json.loads((tmp_path / "out.json").read_text())
    told[0]["annotations"] = [{"result": [region(0.0, 0.9, "2")]}, {"result": [], "was_cancelled": True}]

    entered = enter(one, "out.json", packed(told), source="ada")

    assert entered.new == 1
    held, sources = column(one, "label.y")
    assert (held.tolist(), sources) == ([2.0] * 10 + [1.0] * 10, {"ada": 10, "auto": 10})


def test_rectangles_in_percent_become_boxes_in_pixels_and_come_back(homes, tmp_path):
    one, two = homes
    place = {"image": f"up/load/press-press/s0/{times(0)[4]}.jpg"}
    box = {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rectanglelabels": ["crack"]}
    result = {"from_name": "label.boxes", "type": "rectanglelabels", "original_width": 12, "original_height": 8}
    value = [{"data": place, "annotations": [{"result": [{**result, "value": box}]}]}]

    enter(one, "t.json", packed(value), source="ada", classes=CLASSES)

    held = column(one, "label.boxes")[0]
    assert held[0][0].tolist() == [3.0, 4.0, 6.0, 2.0, 2.0]
    export(one, tmp_path / "out.json", format="label-studio", feature="label.boxes", classes=CLASSES)
    told = json.loads((tmp_path / "out.json").read_text())
    assert len(told) == 2 * ROWS
    assert all((tmp_path / t["data"]["image"]).is_file() for t in told)
    assert ElementTree.parse(tmp_path / "out-config.xml").find("RectangleLabels").get("name") == "label.boxes"
    enter(two, "out.json", (tmp_path / "out.json").read_bytes(), classes=CLASSES, feature="label.boxes")
    assert np.array_equal(column(two, "label.boxes")[0], held, equal_nan=True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (task(results=[region(0.0, 9.0, "1")]), "t.json task 7: ["),
        (task(results=[region(0.0, 0.1, "bad")]), "t.json task 7: 'bad' is no number"),
        (task(results=[region(None, 0.1, "1")]), "t.json task 7: a region must begin and end"),
        (task(results=[region(0.0, 0.5, "1"), region(0.5, 0.7, "2")]), "t.json task 7: says of"),
        (task(results=[{"type": "brush", "from_name": "label.y", "value": {}}]), "'brush' is no label"),
        (task(annotations=[{"result": []}, {"result": []}]), "t.json task 7: has 2 annotations"),
        (task(data={"device": "crane"}, results=[region(0.0, 0.1, "1")]), "t.json task 7: no device 'crane' here"),
        (task(data={"start": "soon"}, results=[region(0.0, 0.1, "1")]), "t.json task 7: start: time 'soon'"),
        (
            {"id": 7, "data": {"image": "x.jpg"}, "annotations": [{"result": []}]},
            "t.json task 7: 'x.jpg' names no frame",
        ),
        (task(results=[{**region(0.0, 0.1, "1"), "value": 3}]), "t.json task 7: value must be dict"),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_its_id(homes, value, says):
    one, _ = homes
    with pytest.raises(FleetmillError, match=re.escape(says)) as refusal:
        enter(one, "t.json", packed([value]), source="ada", feature="label.y")
    assert "\n" not in str(refusal.value)
    assert list(one.ledger.read(kind="labels")) == []


# -- CSV --------------------------------------------------------------------------------------------------------------


def test_a_table_with_times_as_people_write_them(homes):
    one, _ = homes
    rows = (
        "value;end;device;begin\n"
        "hole;2027-01-15T08:00:00.5Z;press-press;2027-01-15T08:00:00Z\n"
        "2;;press-press;+0.5s\n"
        ";;press-press;+0.6s\n"  # a question that nobody answered
    )
    entered = enter(one, "a.csv", rows.encode(), source="ada", feature="label.y", classes=CLASSES)
    assert (entered.rows, entered.new) == (2, 2)
    assert column(one, "label.y")[0].tolist() == [1.0] * 5 + [2.0]


def test_a_row_without_a_session_may_reach_over_several(homes):
    one, _ = homes
    rows = f"device,start,end,value\npress-press,{times(0)[18]},{times(1)[2]},3\n".encode()
    assert enter(one, "a.csv", rows, source="ada", feature="label.y").new == 2
    assert column(one, "label.y")[0].tolist() == [3.0] * 4


def test_a_row_names_its_own_source(homes):
    one, _ = homes
    rows = table([0], 1.0, source="bob") + b"\n" + table([1], 2.0).split(b"\n", 1)[1]
    assert enter(one, "a.csv", rows, source="ada").sources == ("ada", "bob")
    assert column(one, "label.y")[1] == {"ada": ROWS, "bob": ROWS}


def test_a_table_goes_out_and_comes_back_with_every_source(homes, tmp_path):
    one, two = homes
    enter(one, "a.csv", table([0], 1.0, source="auto"))
    enter(one, "b.csv", f"device,start,end,value\npress-press,{times(0)[5]},{times(0)[9]},nan".encode(),
          source="ada", feature="label.y")  # fmt: skip
    note = f'device,start,value\npress-press,{times(0)[2]},"wet, and cold"'
    enter(one, "c.csv", note.encode(), source="ada", feature="label.note")
    out = tmp_path / "out.csv"

    written = export(one, out)

    assert written.questions == 6  # s1 of three features, the rest of s0 of two
    text = out.read_bytes()
    assert enter(one, "out.csv", text, source="eve").new == 0
    assert enter(two, "out.csv", text, source="eve").sources == ("ada", "auto")
    held, sources = column(two, "label.y")
    assert np.array_equal(held, column(one, "label.y")[0], equal_nan=True)
    assert (held[:5].tolist(), np.isnan(held[5:9]).all(), sources["ada"]) == ([1.0] * 5, True, 5)
    export(two, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == text


def test_only_what_is_open_goes_out_when_asked(homes, tmp_path):
    one, _ = homes
    enter(one, "a.csv", table([0], 1.0), source="ada")
    out = tmp_path / "out.csv"
    assert export(one, out, feature="label.y", unlabelled=True).sessions == 1
    assert "s0" not in out.read_text()
    assert export(one, out, NUMBERS, format="label-studio", feature="label.y", unlabelled=True).sessions == 1
    written = export(one, out, format="coco", feature="label.y", unlabelled=True, every=0.5)
    assert (written.known, written.questions) == (0, 4)
    version = refine.run(one.ledger, one.books, one.blobs, LINE, inbox.sessions(one.ledger, "desk")[:1])
    assert export(one, out, dataset=version.digest[:8]).sessions == 1


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(
        st.tuples(
            st.integers(0, 2**62), st.integers(1, 2**40), st.floats(allow_nan=False, allow_infinity=False, width=32)
        ),
        min_size=1,
    )
)
def test_any_table_comes_back_as_it_went_out(spans):
    rows = [
        Row(where="", device="d", session="s", feature="label.y", start_ns=a, end_ns=a + n, value=v, source="ada")
        for a, n, v in spans
    ]
    found = tables.read("a.csv", tables.write(rows, [], {}), READER).rows

    assert {(r.start_ns, r.end_ns, r.value, r.source) for r in found} == {
        (r.start_ns, r.end_ns, r.value, r.source) for r in rows
    }


SIDE = st.floats(0, 4000, width=32)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE, st.integers(1, 9)), max_size=3),
    size=st.tuples(st.integers(1, 8000), st.integers(1, 8000)),
)
def test_any_boxes_come_back_from_either_tool_as_they_went_out(boxes, size):
    value = [list(map(float, box)) for box in boxes]
    place = Place(device="d", session="s", time_ns=17)
    frame = Frame(place=place, width=size[0], height=size[1], known=True, value=value, source="ada")

    for data, read in (
        (coco.write([frame], BOXES, CLASSES, "f"), coco.read),
        (label_studio.write_frames([frame], BOXES, CLASSES, "f"), label_studio.read),
    ):
        (row,) = read("a.json", data, READER).rows
        assert (row.device, row.session, row.start_ns, row.end_ns, row.source) == ("d", "s", 17, 18, "ada")
        assert np.array_equal(np.float32(row.value).reshape(-1, 5), np.float32(value).reshape(-1, 5))


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did_and_refuse_in_one_line(homes, tmp_path, monkeypatch):
    one, _ = homes
    monkeypatch.setattr("fleetmill.lines.find", lambda name: LINE)
    (tmp_path / "a.csv").write_bytes(table([0], 1.0))
    run = CliRunner()
    words = ["--line", "desk", "--home", str(one.settings.home)]

    done = run.invoke(app, ["labels", "import", str(tmp_path / "a.csv"), *words, "--source", "ada"])
    assert "1 labels by ada on 1 sessions: label set " in done.output
    done = run.invoke(app, ["labels", "import", str(tmp_path / "a.csv"), *words, "--source", "ada"])
    assert "nothing in them is new" in done.output
    done = run.invoke(app, ["labels", "export", *words, "--out", str(tmp_path / "out.csv"), "--json"])
    assert json.loads(done.output)["known"] == 1
    refused = run.invoke(app, ["labels", "import", str(tmp_path / "none.csv"), *words])
    assert "no such file" in str(refused.exception)
    refused = run.invoke(app, ["labels", "import", str(tmp_path / "a.csv"), *words, "--class", "hole"])
    assert "--class 'hole': must be NAME=NUMBER" in str(refused.exception)


def test_why_tells_of_a_dataset_on_the_command_line(homes, tmp_path):
    one, _ = homes
    enter(one, "a.csv", table([0]), source="ada", feature="label.y")
    version = refine.run(one.ledger, one.books, one.blobs, LINE, inbox.sessions(one.ledger, "desk"))

    told = CliRunner().invoke(app, ["why", version.digest[:8], "--home", str(one.settings.home)]).output

    assert f"train: {ROWS} rows of 2 sessions, {ROWS} labelled by ada" in told
    assert re.search(r"^labels \w{12} by ada \(csv, file \w{12}\): train, 1 sessions \(fact \d+\)$", told, re.MULTILINE)
    assert "taught: no model" in told
