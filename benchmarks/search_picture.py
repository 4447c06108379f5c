"""A picture of what the search gains: regret against iterations, of replays on tables and of real studies.

    pip install matplotlib
    python -m benchmarks.search_picture --output benchmarks/2026-11-26-search.png shapes.json nuclei.json live.json

The files are those that `replay.py` and `live.py` write. Bands are 95 % intervals of the mean. Of real studies there is
no best possible score: their test AP is drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLORS = {
    "random": "#8a8a8a", "random_asha": "#4477aa", "old": "#ccbb44", "tpe": "#228833", "gp": "#66ccee",
    "auto": "#cc3311", "random_promotion": "#aa3377", "auto_asha": "#ee99aa",
}  # fmt: skip
"""Tol's, which are told apart by who is colour-blind, too."""


def draw(axis: Any, name: str, result: dict[str, Any]) -> None:
    """One file as a panel."""
    grid = np.array(result["iterations"])
    for arm, of in result["arms"].items():
        middle = np.array(of.get("regret", of["AP"]), float)
        if "regret" in of:
            low, high = of["regret_low"], of["regret_high"]
        else:
            low, high = middle - np.array(of["half_width"], float), middle + np.array(of["half_width"], float)
        axis.plot(grid, middle, color=COLORS[arm], label=arm.replace("_", ", "), lw=2.2 if arm == "auto" else 1.4)
        axis.fill_between(grid, low, high, color=COLORS[arm], alpha=0.15, lw=0)
    axis.set_title(name)
    axis.set_xlabel("iterations of all trials")
    if "best" in result:
        axis.set_ylabel("regret: 1 the configuration, 0 the best point")
        axis.set_ylim(0, 1.05)
    else:
        axis.set_ylabel("AP on test images")
    axis.grid(alpha=0.3)


def main(words: Sequence[str] | None = None) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(words)
    figure, axes = pyplot.subplots(1, len(given.files), figsize=(4.6 * len(given.files), 3.9), squeeze=False)
    for axis, file in zip(axes[0], given.files, strict=True):
        draw(axis, file.stem, json.loads(file.read_text(encoding="utf-8")))
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(given.output, dpi=90)


if __name__ == "__main__":
    main()
