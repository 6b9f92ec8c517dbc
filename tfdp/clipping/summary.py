"""The table that ``clipping_summary()`` shows."""

from __future__ import annotations

from collections.abc import Sequence

from tfdp.clipping.engine import LayerReport


def summary_table(reports: Sequence[LayerReport]) -> str:
    """One row a variable and use: layer, weights, positions, method, memory.

    Args:
        reports: Reports of an engine after it was traced.

    Returns:
        A text table. Memory is in KiB an example, beyond the layer's own activations.

    Example:
        >>> report = LayerReport("dense", "dense/kernel", 650, 1, "gram", 74)
        >>> print(summary_table([report]))
        layer  variable  weights  positions  method  KiB/example
        -----  --------  -------  ---------  ------  -----------
        dense  kernel    650      1          gram    0.3
    """
    header = ("layer", "variable", "weights", "positions", "method", "KiB/example")
    rows = [
        (
            report.layer,
            report.variable.rsplit("/", 1)[-1],
            f"{report.weights:,}",
            "?" if report.positions is None else f"{report.positions:,}",
            report.method,
            f"{report.floats_per_example * 4 / 1024:,.1f}",
        )
        for report in reports
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [header, *rows]
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)
