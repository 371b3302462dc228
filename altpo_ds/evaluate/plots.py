"""Plots of the report as SVG text: dark on white, lettering kept as paths so that they need no font."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from altpo_ds.evaluate.ks import INDISTINGUISHABLE, KolmogorovSmirnov

SIZE = (5.4, 3.7)  # inches: lettering stays readable where a phone shows the plot 340 points wide
LEGEND_LINE = 0.22  # inches
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
MODEL_COLOURS = {"before": BEFORE, "after": AFTER, "retain model": RETAIN}
CURVE_COLOURS = (AFTER, BEFORE, RETAIN, GREY)


class Point(NamedTuple):
    """A model on the trade-off plane."""

    label: str
    utility: float
    log10_quality: float
    colour: str
    marker: str


class Stop(NamedTuple):
    """An evaluation during training on the trade-off plane."""

    step: int
    utility: float
    log10_quality: float


def trade_off(points: Sequence[Point], path: Sequence[Stop] = (), front: Sequence[tuple[float, float]] = ()) -> str:
    """Forget quality (log10 p) against model utility; `path`: the way of a run through its steps; `front`: (utility,
    log10 p) of the models that no other one beats, by utility.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("model utility (kept →)", "forget quality, log10 p (forgotten ↑)")
        if path:
            places = [(stop.utility, stop.log10_quality) for stop in path]
            axes.plot(*zip(*places, strict=True), color=AFTER, lw=1, marker=".", alpha=0.6, label="over the steps")
            for stop in path[1:-1]:  # the first and the last one are models with a mark of their own
                at = (stop.utility, stop.log10_quality)
                axes.annotate(str(stop.step), at, (4, 4), textcoords="offset points", fontsize=8, color=GREY)
        if front:
            axes.plot(*zip(*front, strict=True), color=GREY, lw=1.2, drawstyle="steps-pre", label="Pareto front")
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
        lowest = min([threshold, *(point.log10_quality for point in points), *(stop.log10_quality for stop in path)])
        axes.set_ylim(lowest * 1.12 - 0.1, -lowest * 0.1 + 0.1)
        axes.margins(x=0.15)
        _legend(axes, outside=len(points) > 4)
        return _svg(figure)


def curves(
    history: Sequence[Mapping[str, Any]], names: Mapping[str, str], ylabel: str, threshold: bool = False
) -> str | None:
    """Columns of metrics.jsonl over the steps; `names`: column to label; `threshold`: the log10 p to rise above.
    None where no column has two values: a point is no curve.
    """
    series = {name: [(line["step"], line[name]) for line in history if _number(line, name)] for name in names}
    if all(len(points) < 2 for points in series.values()):
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("optimizer step", ylabel)
        for (name, points), colour in zip(series.items(), CURVE_COLOURS, strict=False):
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=MODEL_COLOURS.get(name, colour),
                    lw=1.5,
                    label=names[name],
                    marker="o" if len(points) < 8 else None,
                    markersize=4,
                )
        if threshold:
            axes.axhline(
                float(np.log10(INDISTINGUISHABLE)), color=GREY, lw=1, ls="--", label=f"p = {INDISTINGUISHABLE}"
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _legend(axes)
        return _svg(figure)


def distributions(samples: Mapping[str, Sequence[float]], test: KolmogorovSmirnov | None) -> str:
    """Share of the forget rows whose truth ratio is at most R, by model; `test`: where after and retain differ most."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("truth ratio R (1: true and false equally likely)", "share of forget rows ≤ R")
        for name, ratios in samples.items():
            axes.ecdf(np.asarray(ratios), color=MODEL_COLOURS[name], label=name, lw=1.8)
        axes.axvline(1, color=GREY, lw=0.8, ls=":")
        _log_axis(axes.xaxis, [ratio for ratios in samples.values() for ratio in ratios])
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


def _log_axis(axis: XAxis, values: Sequence[float]) -> None:
    """Ticks that do not run into each other: 1, 2 and 5 of each power of ten, on a long axis the powers alone."""
    axis.axes.set_xscale("log")
    decades = float(np.log10(max(values) / min(values)))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axis.set_minor_locator(NullLocator())
    if decades < 4:
        axis.set_major_formatter("{x:g}")


def _legend(axes: Axes, outside: bool = False) -> None:
    if outside:
        figure, lines = axes.figure, -(-len(axes.get_legend_handles_labels()[0]) // 2)
        assert isinstance(figure, Figure)
        figure.set_size_inches(SIZE[0], SIZE[1] + LEGEND_LINE * lines)
        figure.legend(loc="outside lower center", ncols=2)
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
