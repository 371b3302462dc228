"""Plots of the report as SVG text: dark on white, lettering kept as paths so that they need no font."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from altpo_ds.evaluate.ks import INDISTINGUISHABLE, KolmogorovSmirnov

SIZE = (5.4, 3.7)  # inches: lettering stays readable where a phone shows the plot 340 points wide
BEFORE, AFTER, RETAIN, GREY = "#b3420f", "#0b5fa5", "#2e7d32", "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "altpo_ds",  # the same numbers give the same file
}
CURVE_COLOURS = (AFTER, BEFORE, RETAIN, GREY)


class Point(NamedTuple):
    """A model on the trade-off plane."""

    label: str
    utility: float
    log10_quality: float
    colour: str
    marker: str


def trade_off(points: Sequence[Point], path: Sequence[tuple[float, float]] = ()) -> str:
    """Forget quality (log10 p) against model utility; `path`: (utility, log10 p) over the steps of a run."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("model utility (kept →)", "forget quality, log10 p (forgotten ↑)")
        if path:
            axes.plot(*zip(*path, strict=True), color=AFTER, lw=1, marker=".", alpha=0.6, label="over the steps")
        for point in points:
            axes.scatter(
                point.utility,
                point.log10_quality,
                s=90,
                color=point.colour,
                marker=point.marker,
                label=point.label,
                zorder=3,
                edgecolors="white",
            )
        threshold = float(np.log10(INDISTINGUISHABLE))
        axes.axhline(threshold, color=GREY, lw=1, ls="--", label=f"p = {INDISTINGUISHABLE}")
        lowest = min([threshold, *(point.log10_quality for point in points), *(y for _, y in path)])
        axes.set_ylim(lowest * 1.12 - 0.1, -lowest * 0.1 + 0.1)
        axes.margins(x=0.15)
        _legend(axes, outside=len(points) > 4)
        return _svg(figure)


def curves(history: Sequence[Mapping[str, Any]], names: Mapping[str, str], ylabel: str) -> str | None:
    """Columns of metrics.jsonl over the steps; `names`: column to label. None where no line holds any of them."""
    series = {name: [(line["step"], line[name]) for line in history if _number(line, name)] for name in names}
    if not any(series.values()):
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("optimizer step", ylabel)
        for (name, points), colour in zip(series.items(), CURVE_COLOURS, strict=False):
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    lw=1.5,
                    label=names[name],
                    marker="o" if len(points) < 3 else None,
                )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
        return _svg(figure)


def distributions(samples: Mapping[str, Sequence[float]], test: KolmogorovSmirnov | None) -> str:
    """Share of the forget rows whose truth ratio is at most R, by model; `test`: where after and retain differ most."""
    colours = {"before": BEFORE, "after": AFTER, "retain model": RETAIN}
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("truth ratio R (1: true and false equally likely)", "share of forget rows ≤ R")
        for name, ratios in samples.items():
            axes.ecdf(np.asarray(ratios), color=colours[name], label=name, lw=1.8)
        axes.set_xscale("log")
        axes.axvline(1, color=GREY, lw=0.8, ls=":")
        if test and test.statistic > 0:
            heights = [float(np.mean(np.asarray(samples[name]) <= test.location)) for name in ("after", "retain model")]
            axes.plot([test.location] * 2, heights, color="black", lw=2.5, label=f"KS = {test.statistic:.3f}")
        _legend(axes)
        return _svg(figure)


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes, outside: bool = False) -> None:
    if outside:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    else:
        axes.legend(loc="best")


def _number(line: Mapping[str, Any], name: str) -> bool:
    value = line.get(name)
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
