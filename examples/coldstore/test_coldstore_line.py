"""The line keeps the contract, and a model of it holds the cold better than the baseline."""

import numpy as np
from coldstore_line import Store, graph, guard, line

from fleetmill.testing import check_line


def test_the_line_keeps_the_contract():
    assert check_line(line) == []


def test_the_expert_keeps_the_store_cold_without_its_thermostat():
    for scenario in ("default", "field"):
        world = Store(scenario, 0)
        step, lived = world.begin(), []
        for _ in range(288):
            step = world.act({"power": step.label["label.power"]})
            lived.append(step)
        assert line.judging.live(lived, [])["takeovers"] == 0.0


def test_a_model_that_is_silent_leaves_the_compressor_as_it_was():
    _, memory = guard({"power": np.float32(0.7)}, {}, {})
    sent, _ = guard({"power": np.float32(np.nan)}, {}, memory)
    assert sent["power"] == np.float32(0.7)


def test_the_graph_is_the_same_bytes_for_the_same_weights():
    assert graph(np.ones(5), 0.5) == graph(np.ones(5), 0.5)
