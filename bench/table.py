"""A report of a bench as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(report: Mapping[str, Any], indent: str = "") -> str:
    out = []
    for name, value in report.items():
        if isinstance(value, Mapping) and "value" in value:
            seeds = " ".join(f"{v:.3f}" for v in value["by_seed"])
            out.append(f"{indent}{name}: {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]  ({seeds})")
        elif isinstance(value, Mapping):
            out += [f"{indent}{name}", table(value, indent + "  ")]
        else:
            out.append(f"{indent}{name}: {value:.3f}" if isinstance(value, float) else f"{indent}{name}: {value}")
    return "\n".join(out)
