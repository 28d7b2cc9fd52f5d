"""Each way in of docs/adopt.md, walked: its commands run as they stand there, on tables that are made up here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from fleetmill.home import open_home
from fleetmill.receipts.standing import running
from fleetmill.receipts.why import why
from fleetmill.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "adopt.md"
START_S = 1_700_000_040  # begins a minute
UP = re.compile(r"^fleetmill up .*$", re.MULTILINE)

# the team's own: least squares by the rows that were exported, written as ONNX
TRAINER = """
import json, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

data, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = pa.ipc.open_file(pa.memory_map(str(data / json.loads((data / "dataset.json").read_text())["files"]["train"])))
rows = rows.read_all()
seen = np.stack([rows["load"].to_numpy(), rows["wind"].to_numpy()], axis=1)
weights, *_ = np.linalg.lstsq(np.c_[seen, np.ones(len(seen))], rows["label.sway"].to_numpy(), rcond=None)
w, b = weights[:2].astype(np.float32), weights[2:].astype(np.float32)
ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in ("load", "wind", SAYS)]
made = [numpy_helper.from_array(v, n) for n, v in (("a", w[:1]), ("c", w[1:]), ("b", b))]
nodes = [
    helper.make_node("Mul", ["load", "a"], ["p"]), helper.make_node("Mul", ["wind", "c"], ["q"]),
    helper.make_node("Add", ["p", "q"], ["r"]), helper.make_node("Add", ["r", "b"], [SAYS]),
]
graph = helper.make_graph(nodes, "ours", ports[:2], ports[2:], made)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
out.write_bytes(model.SerializeToString())
"""

# what `pip install -e` does for a package whose one need is here: its entry point is found
PIP = """#!{python}
import sys
from pathlib import Path
assert sys.argv[1:3] == ["install", "-e"], sys.argv
folder, name = Path(sys.argv[3]), sys.argv[3]
info = folder / f"{{name}}_line-0.1.0.dist-info"
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {{name}}-line\\nVersion: 0.1.0\\n")
(info / "entry_points.txt").write_text(f"[fleetmill.lines]\\n{{name}} = {{name}}_line:line\\n")
"""


def ways():
    """The page's commands by heading."""
    found: dict[str, str] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        if blocks:
            found[part.splitlines()[0]] = "".join(blocks)
    return found


def a_table(path, minutes, seed=0):
    chance = np.random.default_rng([seed, minutes[0]])
    rows = ["Time,Load (kg),wind,sway"]
    for i in range(60 * minutes[0], 60 * (minutes[-1] + 1)):
        load, wind = chance.normal(size=2)
        rows.append(f"{START_S + i},{load},{wind},{3 * load - wind + 5 + 0.01 * chance.normal()}")
    path.write_text("\n".join(rows))


@pytest.fixture
def walked(tmp_path):
    """Walks a way; what its commands printed."""
    a_table(tmp_path / "monday.csv", range(20))
    a_table(tmp_path / "tuesday.csv", range(30, 40), seed=1)
    (tmp_path / "your_trainer.py").write_text(TRAINER.replace("SAYS", '"sway"'))
    programs = tmp_path / "bin"
    programs.mkdir()
    shell = {
        "fleetmill": f'#!/bin/sh\nexec "{sys.executable}" -m fleetmill.cli "$@"\n',
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "pip": PIP.format(python=sys.executable),
    }
    for name, text in shell.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def walk(way):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        commands = (ways()["First, for each"] + ways()[way]).replace("8787", str(port))
        commands = UP.sub(_in_the_background, commands)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FLEETMILL_")},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "crane"), os.environ.get("PYTHONPATH", "")]),
        }
        script = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + commands
        ran = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return walk


def _in_the_background(found):
    """A terminal of its own: what follows waits until the factory answers, or has ended."""
    return (
        f"{found[0]} > up.log 2>&1 & UP=$!\n"
        "until grep -q '^factory' up.log; do kill -0 $UP || { cat up.log; exit 1; }; sleep 0.1; done\n"
    )


@pytest.fixture
def home(tmp_path):
    def opened():
        return open_home(Settings(home=tmp_path / "fleetmill-home"), own=False)

    return opened


def test_the_page_has_four_ways():
    assert list(ways()) == ["First, for each", "Only receive", "Only judge", "Only release", "All"]


def test_only_receive(walked, home, tmp_path):
    said = walked("Only receive")

    assert "balanced: 1800.000 s lived" in said
    manifest = json.loads((tmp_path / "data/dataset.json").read_text())
    rows = {role: parquet.read_table(tmp_path / "data" / name) for role, name in manifest["files"].items()}
    assert {role: table.num_rows for role, table in rows.items()} == {"train": 1380, "held_out": 420}
    assert set(rows["train"].column_names) == {"load", "wind", "label.sway", "time_ns"}
    load, wind, sway = (rows["train"][name].to_numpy() for name in ("load", "wind", "label.sway"))
    assert np.abs(3 * load - wind + 5 - sway).max() < 0.1
    with home() as opened:
        assert [f.key for f in opened.ledger.read(kind="dataset")] == [manifest["dataset"]]
        assert list(opened.ledger.read(kind="model")) == []


def test_only_judge(walked, home):
    said = walked("Only judge")

    assert "made elsewhere: accepted" in said
    assert "met: mae (all)" in said
    assert "trains elsewhere" in said
    with home() as opened:
        (verdict,) = opened.ledger.read(kind="verdict")
        assert verdict.record["champion"] == ""  # against the baseline
        assert list(opened.ledger.read(kind="run")) == []  # nothing was trained here
        told = why(opened.ledger, verdict.record["candidate"])
        assert told.made_by == "our trainer, run 17"
        assert {p.role for p in told.judged_on} == {"held_out"}


def test_only_release(walked, home, tmp_path):
    said = walked("Only release")

    assert said.index("a person must decide") < said.index("made elsewhere: accepted")
    with home() as opened:
        (entered,) = opened.ledger.read(kind="entered")
        (decided,) = opened.ledger.read(kind="decided")
        assert (decided.record["word"], decided.record["by"]) == ("approved", "Ada")
        files = opened.ledger.get("model", entered.record["model"]).record["files"]
        assert running(opened.ledger) == {"crane-1": files["model.onnx"]}
        assert list(opened.ledger.read(kind="run")) == []
    held = [path.read_bytes() for path in (tmp_path / "crane-1/slots").rglob("model.onnx")]
    assert (tmp_path / "model.onnx").read_bytes() in held


def test_all(walked, home):
    walked("All")

    with home() as opened:
        turns = list(opened.ledger.read(kind="turn_ended"))
        assert [t.record["turn"] for t in turns] == [0, 1]
        assert turns[0].record["decision"] == "accepted"
        champion = list(opened.ledger.read(kind="release"))[-1].record["model"]
        file = opened.ledger.get("model", champion).record["files"]["model.onnx"]
        assert running(opened.ledger) == {"crane-1": file}
        assert opened.books.faults() == opened.books.verify() == []
