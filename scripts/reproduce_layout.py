"""How `reproduce.py` lays out tables, and pictures: of each row, or over a setting of the rows."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, with a blank one after it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""]


def draw_rows(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
    colors: Sequence[str] | None = None,
) -> None:
    """A line for each row: a dot a seed, a bar from one standard deviation below to one above.

    Args:
        axes: What is drawn on.
        labels: What the rows are called.
        values: For each row its values by seed.
        colors: Of the rows. Defaults to `None`: one for all.
    """
    for place, row in enumerate(values):
        color = colors[place] if colors else "C0"
        mean, stddev = mean_and_stddev(row)
        axes.errorbar(mean, place, xerr=stddev or 0, color=color, capsize=4, marker="|", ms=14)
        axes.plot(row, [place] * len(row), "o", color=color, alpha=0.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)


def draw_curves(axes: Axes, curves: dict[str, dict[float, Sequence[float]]]) -> None:
    """A curve through the means for each series: a dot a seed.

    Args:
        axes: What is drawn on.
        curves: By series, and by the place on the horizontal axis, the values by seed.
    """
    for number, (series, points) in enumerate(curves.items()):
        color, x = f"C{number}", sorted(points)
        means, stddevs = zip(*(mean_and_stddev(points[place]) for place in x), strict=True)
        stddevs = [stddev or 0 for stddev in stddevs]
        axes.errorbar(x, means, stddevs, color=color, capsize=4, label=series or None)
        for place in x:
            row = points[place]
            axes.plot([place] * len(row), row, "o", c=color, alpha=0.5)
    ticks = sorted({place for points in curves.values() for place in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if any(curves):
        axes.legend()


def mean_and_stddev(values: Sequence[float]) -> tuple[float, float | None]:
    """Over seeds; no standard deviation of one."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, with two decimals."""
    mean, stddev = mean_and_stddev(values)
    return f"{mean:.2f}" + ("" if stddev is None else f" ± {stddev:.2f}")
