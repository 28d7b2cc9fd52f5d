"""Settings: file below environment below flags, each with its source; what is wrong is named with where it stands."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from fleetmill.cli import app
from fleetmill.core.errors import InvalidInputError
from fleetmill.settings import LineSettings, Settings, explain, read_settings

FILE = """
port = 99
log_level = "debug"
metrics_open = true

[lines.a]
hardware = ["pi5", "orin"]
[lines.a.turn_when]
hours = 3.0
[lines.a.train]
steps = 5
[lines.a.campaign]
seconds = 4.0

[lines.b]
deadline_seconds = 1800
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "fleetmill.toml").write_text(FILE)
    return tmp_path


def sources(home, **more):
    return {s.name: (s.value, s.source) for s in explain(home=home, **{"environment": {}, **more})}


def test_each_setting_says_where_it_came_from(home):
    found = sources(home, environment={"FLEETMILL_SEED": "3", "FLEETMILL_PORT": "100"}, host="0.0.0.0")

    assert found["home"] == (home, "flag")
    assert found["host"] == ("0.0.0.0", "flag")
    assert found["port"] == (100, "environment FLEETMILL_PORT")
    assert found["seed"] == (3, "environment FLEETMILL_SEED")
    assert found["log_level"] == ("debug", "fleetmill.toml")
    assert found["metrics_open"] == (True, "fleetmill.toml")
    assert found["workers"] == (2, "default")


def test_each_setting_of_each_line_says_so_too(home):
    found = sources(home)

    assert found["lines.a.turn_when.hours"] == (3.0, "fleetmill.toml")
    assert found["lines.a.turn_when.sessions"] == (0, "default")
    assert found["lines.a.hardware"] == (("pi5", "orin"), "fleetmill.toml")
    assert found["lines.a.train.steps"] == (5, "fleetmill.toml")
    assert found["lines.a.campaign.seconds"] == (4.0, "fleetmill.toml")
    assert found["lines.a.campaign.budget_ratio"] == (0.35, "default")
    assert found["lines.a.first_campaign"] == (None, "default")
    assert found["lines.b.turn_when.hours"] == (0.5, "fleetmill.toml")  # in the words of format 1


def test_every_field_is_explained(home):
    names = {name.split(".")[0] for name in sources(home)}
    of_a_line = {name.split(".")[2] for name in sources(home) if name.startswith("lines.a.")}

    assert names == {f.name for f in dataclasses.fields(Settings)}
    assert of_a_line == {f.name for f in dataclasses.fields(LineSettings)}


def test_the_home_may_come_from_the_environment(home):
    settings = read_settings(environment={"FLEETMILL_HOME": str(home)})

    assert (settings.home, settings.port) == (home, 99)
    assert explain(environment={"FLEETMILL_HOME": str(home)})[0].source == "environment FLEETMILL_HOME"
    assert explain(environment={})[0].source == "default"


@pytest.mark.parametrize("said", ["true", "True", "1"])
def test_a_truth_in_the_environment(tmp_path, said):
    assert read_settings(home=tmp_path, environment={"FLEETMILL_METRICS_OPEN": said}).metrics_open


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("FLEETMILL_METRICS_OPEN", "maybe", "FLEETMILL_METRICS_OPEN='maybe': must be bool"),
        ("FLEETMILL_PORT", "http", "FLEETMILL_PORT='http': must be int"),
        ("FLEETMILL_LOG_LEVEL", "loud", "log_level 'loud': must be one of debug, info, warning, error"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(tmp_path, name, said, told):
    with pytest.raises(InvalidInputError, match=told):
        read_settings(home=tmp_path, environment={name: said})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("log_file = 3", "log_file: must be str"),
        ("metrics_open = 1", "metrics_open: must be bool"),
        ("metrics = true", "no such setting: metrics"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, text, told):
    (tmp_path / "fleetmill.toml").write_text(text)

    with pytest.raises(InvalidInputError, match=told):
        read_settings(home=tmp_path, environment={})


def test_the_command_prints_what_is_in_force(home, monkeypatch):
    monkeypatch.setenv("FLEETMILL_SEED", "8")
    table = CliRunner().invoke(app, ["settings", "--home", str(home)])
    found = CliRunner().invoke(app, ["settings", "--home", str(home), "--json"])

    rows = {row["name"]: row for row in json.loads(found.output)}
    assert (table.exit_code, found.exit_code) == (0, 0)
    assert rows["seed"] == {"name": "seed", "value": 8, "source": "environment FLEETMILL_SEED"}
    assert rows["lines.a.hardware"]["value"] == ["pi5", "orin"]
    assert "environment FLEETMILL_SEED" in table.output
    assert '["pi5", "orin"]' in table.output
