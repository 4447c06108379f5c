"""Do the intervals of `evaluate` hold what they promise? Datasets are drawn from a large one, whose AP is known.

    python -m benchmarks.intervals [--images 400] [--datasets 100]

The population are made-up predictions (benchmarks/evaluation.py). A dataset of n of its images gives a value and, by
the bootstrap over these n alone, a standard error. Printed for each n: how often value +- 1.96 errors holds the value
of the population (95 % would be right), the mean of the values (AP of few images is too high), their standard deviation
over datasets, and the mean of the errors, which should be the same.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.evaluation import Evaluation
from raytune_m2f.evaluation.bootstrap import Z

SIZES, DRAWS = (5, 15, 50, 100), 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--datasets", type=int, default=100)
    given = parser.parse_args()
    with torch.no_grad():
        made_up = Evaluation(given.images)
        made_up.process(0, given.images)
    made_up.evaluate()
    measures, rng = made_up.evaluator.evaluation.measures, np.random.default_rng(0)
    whole = {name: float(value[0]) for name, value in measures.headlines(measures.once).items()}
    for size in SIZES:
        values: dict[str, list[tuple[float, float]]] = {name: [] for name in whole}
        for _ in range(given.datasets):
            chosen = rng.choice(given.images, size, replace=False)
            weights = np.zeros((given.images, 1 + DRAWS))
            weights[chosen, 0] = 1
            weights[chosen, 1:] = rng.multinomial(size, np.full(size, 1 / size), size=DRAWS).T
            for name, found in measures.headlines(weights).items():
                values[name].append((float(found[0]), float(found[1:].std(ddof=1))))
        for name, pairs in values.items():
            value, error = np.array(pairs).T
            held = np.mean(np.abs(value - whole[name]) <= Z * error)
            print(
                f"{size:4} images, {name}: {100 * held:.0f} % hold {whole[name]:.2f}; values {value.mean():.2f} "
                f"+- {value.std():.2f}, mean error {error.mean():.2f}"
            )


if __name__ == "__main__":
    main()
