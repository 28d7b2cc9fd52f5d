"""The curve as a picture file, and the headline as a sentence: plain values in."""

from __future__ import annotations

import io
from typing import Any

from fleetmill.judge.gate import written

_FLEET, _CONTROL, _GRID = "#0b6e4f", "#8a8a8a", "#dddddd"


def curve(found: dict[str, Any]) -> bytes:
    """PNG: the headline metric of the model in the field by generation, with 95 % intervals; the control in grey."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    generations = found["generations"]
    x = [g["generation"] for g in generations]
    y = [g[found["metric"]] for g in generations]
    low = [max(v - g["ci_low"], 0) for v, g in zip(y, generations, strict=True)]
    high = [max(g["ci_high"] - v, 0) for v, g in zip(y, generations, strict=True)]
    figure, axes = plt.subplots(figsize=(7.2, 4.0), dpi=130)
    axes.axhline(found["control"][found["metric"]], color=_CONTROL, lw=2, label="control: same steps, first data only")
    axes.axhspan(found["control"]["ci_low"], found["control"]["ci_high"], color=_CONTROL, alpha=0.15, lw=0)
    axes.errorbar(x, y, yerr=[low, high], color=_FLEET, marker="o", lw=2, capsize=4, label="model that the fleet runs")
    for g in generations:
        if not g["accepted"]:
            axes.annotate("held", (g["generation"], g[found["metric"]]), xytext=(6, 8), textcoords="offset points")
    axes.set_xticks(x)
    axes.set_xlabel("generation")
    axes.set_ylabel(found["metric"].replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"{found['line']}, seed {found['seed']}, {found['devices']} devices", loc="left", fontsize=10)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def sentence(found: dict[str, Any]) -> str:
    """The headline in one line."""
    r, first = (
        {name: written(value, ".3g") for name, value in found["headline"][against].items()}
        for against in ("against_control", "against_generation_0")
    )
    return (
        f"{found['metric']}: fleet {r['fleet']} against control {r['other']}: ratio {r['ratio']} "
        f"[{r['ci_low']}, {r['ci_high']}]; against generation 0 {first['ratio']} "
        f"[{first['ci_low']}, {first['ci_high']}]"
    )
