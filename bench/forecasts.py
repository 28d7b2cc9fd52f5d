"""How do forecasts turn out that a factory tells day by day? Traffic volume: recorded, told, recorded on, scored.

    python bench/forecasts.py --data ../shared/data/city-hourly [--days 28] [--json]

A home of its own, in a temporary folder. All hours until 2017-11-01 train one model, which a gate that lets anything
through ships: this is about what comes after the gate. Then each day comes in as a file of its own, and the factory
looks: it scores what it told the day before, and tells the next. Seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from fleetmill import forecasts, loop
from fleetmill.core.line import Check
from fleetmill.core.plain import plain
from fleetmill.findings.foretold import TrackRecords
from fleetmill.home import init_home, open_home
from fleetmill.lines import find
from fleetmill.receive.imports import import_path
from fleetmill.settings import Settings

FIRST = date(2017, 11, 1)
CHECK = Check(metric="mae_24h", better="lower", against="baseline", limit=1e6)


def rows_between(table: Sequence[str], first: date, until: date) -> list[str]:
    column = table[0].split(",").index("date_time")
    return [row for row in table[1:] if str(first) <= row.split(",")[column] < str(until)]


def parts(table: Sequence[str], days: int) -> Iterator[str]:
    """The file of what trains, then one per day."""
    edges = [date(2000, 1, 1), *(FIRST + timedelta(days=n) for n in range(days + 2))]
    for first, until in itertools.pairwise(edges):
        yield "\n".join([table[0], *rows_between(table, first, until)]) + "\n"


def lived(folder: Path, table: Sequence[str], days: int) -> dict[str, object]:
    line = replace(find("traffic"), checks=(CHECK,), slices={})
    settings = Settings(home=folder / "home")
    init_home(settings, now_ns=time.time_ns())
    path, costs = folder / "volume.csv", []
    with open_home(settings) as home:
        for nth, text in enumerate(parts(table, days)):
            path.write_text(text)
            import_path(home.ledger, home.books, home.blobs, line, path, device="i94")
            if nth == 0:
                assert loop.turn(home, line) is not None
                continue
            start = time.process_time()
            forecasts.look(home, line)
            costs.append(time.process_time() - start)
        record = TrackRecords(home.ledger).of(line)
    return {"track_record": plain(record), "cpu_seconds_a_look": sum(costs) / len(costs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with hourly_traffic_volume.csv")
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    table = (options.data / "hourly_traffic_volume.csv").read_text().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        found = lived(Path(folder), table, options.days)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    record = found["track_record"]
    print(f"{record['told']} told, {record['scored']} scored, {record['unmeasured']} with nothing to score them by")
    for name, metric in sorted(record["metrics"].items()):
        print(f"{name}: {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]")
    print(f"CPU-seconds a look: {found['cpu_seconds_a_look']:.2f}")


if __name__ == "__main__":
    main()
