"""The page of `beholder compare --html`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beholder.evaluation.compare import Comparison
from beholder.report.figures import intervals
from beholder.report.rendering import chart, write_page


def write_comparison(file: Path, found: Comparison) -> Path:
    """Write the methods of several runs as a table and as a picture."""
    said = found.to_json()
    others = [row for row in said["methods"] if f"{row['run']}:{row['arm']}" != said["reference"]]
    runs = {row.run for row in found.rows}
    drawn = chart(
        intervals(
            [f"{row['run']}\n{row['arm']}" if len(runs) > 1 else row["arm"] for row in others],
            np.asarray([[row["points"], row["low"], row["high"]] for row in others], dtype=float).reshape(-1, 3),
            f"Gain over {said['reference']}",
            said["level"],
            grey=[row["control_of"] is not None for row in others],
            unit=found.results.metric,
        )
    )
    return write_page(file, "comparison.html", found=said, chart=drawn)
