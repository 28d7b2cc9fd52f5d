"""The gateway's counts, in the Prometheus text format. Nothing in them is content."""

from __future__ import annotations

from collections.abc import Iterator

from fleetmill.serve.oip import Inference
from fleetmill.serve.relay import Relay
from fleetmill.serve.servers.roster import Roster
from fleetmill.serving.models import LineModels

KIND = b"text/plain; version=0.0.4"


def metrics(relay: Relay, inference: Inference, models: LineModels, watch: Roster) -> bytes:
    """All counts of this process."""
    rows = [*_servers(relay, watch), *_models(inference, models)]
    rows += [
        f"fleetmill_serve_waiting {relay.waiting}",
        f"fleetmill_serve_hedged {relay.hedged}",
        f"fleetmill_serve_egress_stopped {relay.egress.refused}",
    ]
    return ("\n".join(rows) + "\n").encode()


def _servers(relay: Relay, watch: Roster) -> Iterator[str]:
    for name, tally in sorted(relay.pool.tallies().items()):
        for what, number in tally.items():
            yield f'fleetmill_serve_{what}{{server="{name}"}} {number}'
    for seen in watch.seen():
        yield f'fleetmill_serve_up{{server="{seen.name}"}} {int(seen.state == "up")}'
        if seen.load is not None:
            yield f'fleetmill_serve_engine_running{{server="{seen.name}"}} {seen.load.running}'
            yield f'fleetmill_serve_engine_waiting{{server="{seen.name}"}} {seen.load.waiting}'
            if seen.load.cache_ratio is not None:
                yield f'fleetmill_serve_engine_cache_ratio{{server="{seen.name}"}} {seen.load.cache_ratio:g}'
    for reason, number in sorted(relay.refusals.items()):
        yield f'fleetmill_serve_refused{{reason="{reason}"}} {number}'


def _models(inference: Inference, models: LineModels) -> Iterator[str]:
    yield f"fleetmill_serve_inferring {inference.inferring}"
    for (line, version), number in sorted(inference.answered.items()):
        yield f'fleetmill_serve_inferences{{model="{line}",version="{version}"}} {number}'
    for line, version, found in models.compared():
        labels = f'{{model="{line}",version="{version}"}}'
        yield f"fleetmill_serve_shadow_rows{labels} {found.rows}"
        yield f"fleetmill_serve_shadow_differing{labels} {found.differing}"
        yield f"fleetmill_serve_shadow_distance{labels} {found.distance:.9g}"
        yield f"fleetmill_serve_shadow_failed{labels} {found.failed}"
    for line, number in models.left_out():
        yield f'fleetmill_serve_shadow_left_out{{model="{line}"}} {number}'
