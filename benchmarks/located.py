"""What located queries add to a training step: the same network with learnable and with located queries, in turn.

    PYTHONPATH=. python benchmarks/located.py [--config maskformer2_R50_instance] [--pixels 1024] [--batch 1]

One thread, CPU time; the weights are random, and data are not read.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.against_reference import our_step
from benchmarks.measure import Run, alternate
from benchmarks.reference import CATEGORIES, Batch, Setting
from raytune_m2f.config import load_config
from raytune_m2f.data import Categories
from raytune_m2f.learner.mask_former import build_network

FORMER = "MODEL.MASK_FORMER"


def step_of(config_name: str, setting: Setting, *, located: bool) -> Run:
    """A training step with this configuration's network."""
    queries = "heatmap" if located else "none"
    config = load_config(config_name, [f"{FORMER}.QUERY_SELECTION={queries}", f"{FORMER}.MASK_PRIOR={located}"])
    categories = Categories(tuple(range(1, CATEGORIES + 1)), tuple(f"class {i}" for i in range(CATEGORIES)), {})
    return our_step(build_network(config, categories), Batch.of(setting), setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="maskformer2_R50_instance")
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(pixels=arguments.pixels, batch=arguments.batch)
    learnable, located = (step_of(arguments.config, setting, located=which) for which in (False, True))
    pairs = alternate(learnable, located, arguments.pairs)
    print("     learnable      located   ratio (smallest to largest)")
    print(pairs)


if __name__ == "__main__":
    main()
