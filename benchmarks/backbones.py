"""A training step with each shipped backbone, in units of ResNet-50's: one thread, CPU time, in turn.

    PYTHONPATH=. python benchmarks/backbones.py [--pixels 256] [--batch 2] [--pairs 2]

Needs neither the reference nor a data set; the weights are random.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.against_reference import our_step
from benchmarks.measure import Run, alternate
from benchmarks.reference import CATEGORIES, Batch, Setting
from raytune_m2f.config import load_config
from raytune_m2f.data import Categories
from raytune_m2f.learner.mask_former import build_network

CONFIGS = Path(__file__).parents[1] / "configs"
R50 = CONFIGS / "maskformer2_R50_instance.yaml"


def step_of(config_file: Path, setting: Setting) -> tuple[Run, float]:
    """A training step with this configuration's network, and its parameters in millions."""
    categories = Categories(tuple(range(1, CATEGORIES + 1)), tuple(f"class {i}" for i in range(CATEGORIES)), {})
    model = build_network(load_config(config_file), categories)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return our_step(model, Batch.of(setting), setting), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("RAYTUNE_M2F_DATA", ".")  # the configurations name data that is not read here
    torch.set_num_threads(1)
    setting = Setting(pixels=arguments.pixels, batch=arguments.batch)
    r50, _ = step_of(R50, setting)
    for file in sorted([*CONFIGS.glob("maskformer2_*_instance.yaml"), *CONFIGS.glob("efficientnet_*.yaml")]):
        run, size = step_of(file, setting)
        pairs = alternate(r50, run, arguments.pairs)
        print(f"{file.stem:40} {size:6.1f} M parameters   {1 / pairs.ratio:5.2f} x R50", flush=True)


if __name__ == "__main__":
    main()
