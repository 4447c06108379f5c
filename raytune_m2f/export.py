"""An exported model: a directory that is enough to evaluate and to predict, here or on another machine.

model.pth         {"model": state dict}, in Mask2Former's names
config.yaml       the configuration it was trained with
categories.json   names of the main categories and of every subcategory
metrics.json      the report of the exported checkpoint
README.md         what it is, and the commands to use it
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from model import MultiTaskMaskFormer
from raytune_m2f.config import Config, load_config
from raytune_m2f.data import Categories
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.mirror import Mirror
from raytune_m2f.store import is_address
from raytune_m2f.training import checkpoint
from raytune_m2f.training.build import build_network
from raytune_m2f.training.optimizer import effective_lr

MODEL, CONFIG, CATEGORIES, METRICS = "model.pth", "config.yaml", "categories.json", "metrics.json"

README = """# {title}

A multitask Mask2Former, exported by raytune_m2f from `{source}` at iteration {iteration}.

| | |
|---|---|
| segm AP | {ap:.2f} |
| categories | {categories} |
{heads}
| queries | {queries} |
| learning rate (effective), batch | {lr:.3g}, {batch} |

    raytune-m2f predict --model {output} --output predictions IMAGE...
    raytune-m2f evaluate --model {output} --annotations FILE --images DIR

`model.pth` holds the weights in Mask2Former's names, `config.yaml` the whole configuration, `metrics.json` all metrics.
"""


@dataclass(frozen=True)
class ExportedModel:
    """A loaded export.

    Attributes:
        model: in evaluation mode, on the device it was loaded to.
        device: where the model is.
    """

    model: MultiTaskMaskFormer
    config: Config
    categories: Categories
    device: torch.device


def export_run(run: str | PathLike[str], output: Path) -> dict[str, Any]:
    """Export the best checkpoint of a trial or a training run.

    Args:
        run: its directory, with checkpoints/best.pth, or its address on a store.
        output: the directory to write; an export that is there already is replaced as a whole.

    Returns:
        the report of the exported checkpoint.

    Raises:
        ModelError: there is no best checkpoint yet, or `output` is something else than an export.
    """
    weights = f"checkpoints/{checkpoint.BEST}"
    mirror = Mirror.at(str(run)) if is_address(run) else None
    if mirror is not None:
        mirror.pull(weights)
    best = (Path(run) if mirror is None else mirror.folder) / weights
    if not best.is_file():
        raise ModelError(f"{run} has no {weights}: nothing was evaluated there yet, so nothing is best.")
    if output.exists() and any(output.iterdir()) and not (output / MODEL).is_file():
        raise ModelError(f"--output {output} exists and is no export: give a new or an empty directory.")
    state = checkpoint.load(best)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    checkpoint.save({"model": state["model"]}, temporary / MODEL)
    config = Config.from_dict(state["config"], source=str(best))
    (temporary / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    (temporary / CATEGORIES).write_text(json.dumps(state["categories"], indent=2) + "\n", encoding="utf-8")
    (temporary / METRICS).write_text(json.dumps(state["report"], indent=2) + "\n", encoding="utf-8")
    (temporary / "README.md").write_text(_readme(run, output, config, state), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.replace(output)
    report: dict[str, Any] = state["report"]
    return report


def load_export(folder: Path, device: torch.device | None = None) -> ExportedModel:
    """Load an exported model from its directory alone.

    Args:
        device: by default the GPU if there is one.

    Raises:
        ModelError: a file is missing or does not fit the others.
    """
    missing = [name for name in (MODEL, CONFIG, CATEGORIES) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"--model {folder} is no exported model: it has no {', '.join(missing)}. Make one with "
            "`raytune-m2f export STUDY --output DIR`."
        )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(folder / CONFIG)
    try:
        content = json.loads((folder / CATEGORIES).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / CATEGORIES} is no JSON: {error}") from error
    categories = Categories.from_dict(content, source=str(folder / CATEGORIES))
    model = build_network(config, categories)
    try:
        model.load_state_dict(checkpoint.load(folder / MODEL)["model"])
    except (CheckpointError, RuntimeError) as error:
        raise ModelError(f"{folder / MODEL} does not fit {folder / CONFIG}: {error}") from error
    return ExportedModel(model.to(device).eval(), config, categories, device)


def _readme(run: str | PathLike[str], output: Path, config: Config, state: dict[str, Any]) -> str:
    report, names = state["report"], state["categories"]
    return README.format(
        title=output.name,
        source=str(run),
        output=output,
        iteration=report["iteration"],
        ap=report["segm/AP"],
        categories=", ".join(category["name"] for category in names["categories"]),
        heads="\n".join(f"| {head} | {', '.join(classes)} |" for head, classes in names["subcategories"].items()),
        queries=config.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        lr=effective_lr(config),
        batch=config.SOLVER.IMS_PER_BATCH,
    )
