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
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model import Instances, MultiTaskMaskFormer
from raytune_m2f.config import Config, load_config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import Categories, resize_shortest_edge
from raytune_m2f.engines.any_learner import build_any_model, predict_any, resize_any
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.learner.build import build_network
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.mirror import Mirror
from raytune_m2f.store import is_address
from raytune_m2f.stored import read_object
from raytune_m2f.training import checkpoint

MODEL, CONFIG, CATEGORIES, METRICS = "model.pth", "config.yaml", "categories.json", "metrics.json"

README = """# {title}

A {kind}, exported by raytune_m2f from `{source}` at iteration {iteration}.

| | |
|---|---|
{rows}
| learning rate (effective), batch | {lr:.3g}, {batch} |

    raytune-m2f predict --model {output} --output predictions IMAGE...
    raytune-m2f evaluate --model {output} --annotations FILE --images DIR

`model.pth` holds the weights in {names}'s names, `config.yaml` the whole configuration, `metrics.json` all metrics.
"""


@dataclass(frozen=True)
class ExportedModel:
    """A loaded export.

    Attributes:
        model: in evaluation mode, on the device it was loaded to.
        device: where the model is.
    """

    model: nn.Module
    config: Config
    categories: Categories
    device: torch.device

    def resized(self, image: NDArray[np.uint8]) -> Tensor:
        """A (H, W, 3) RGB image as the network tests it: (3, h, w), by its own engine's resize."""
        if isinstance(self.config, AnyModelConfig):
            return resize_any(self.config, image)
        return resize_shortest_edge(image, self.config.INPUT.MIN_SIZE_TEST, self.config.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """The instances of (3, h, w) RGB images, with masks at `original_sizes` (height, width).

        Raises:
            ModelError: a network of detectron2's predicts no masks.
        """
        if not isinstance(self.model, MultiTaskMaskFormer):
            return predict_any(self.model, self.config, images, original_sizes)
        return self.model.predict(
            images,
            original_sizes,
            max_instances=self.config.TEST.DETECTIONS_PER_IMAGE,
            ranking=self.config.MODEL.MASK_FORMER.TEST.RANKING,
        )


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
    checkpoint.save({"model": _versioned(state["model"])}, temporary / MODEL)
    config = Config.from_dict(state["config"], source=str(best), only_shown=True)
    (temporary / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    (temporary / CATEGORIES).write_text(json.dumps(state["categories"], indent=2) + "\n", encoding="utf-8")
    (temporary / METRICS).write_text(json.dumps(state["report"], indent=2) + "\n", encoding="utf-8")
    (temporary / "README.md").write_text(_readme(run, output, config, state), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.replace(output)
    report: dict[str, Any] = state["report"]
    return report


def load_export(folder: Path, device: torch.device | None = None, *, trust: bool = False) -> ExportedModel:
    """Load an exported model from its directory alone.

    Args:
        device: by default the GPU if there is one.
        trust: whether Python files that the configuration names (DATASETS.IMPORT) may run.

    Raises:
        ModelError: a file is missing or does not fit the others.
        ConfigError: the configuration is wrong, or names Python files and is not trusted.
    """
    missing = [name for name in (MODEL, CONFIG, CATEGORIES) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"--model {folder} is no exported model: it has no {', '.join(missing)}. Make one with "
            "`raytune-m2f export STUDY --output DIR`."
        )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(folder / CONFIG, trust=trust)
    content = read_object(folder / CATEGORIES, ModelError)
    categories = Categories.from_dict(content, source=str(folder / CATEGORIES))
    theirs = isinstance(config, AnyModelConfig)
    model: nn.Module = build_any_model(config) if theirs else build_network(config, categories)
    try:
        model.load_state_dict(checkpoint.load(folder / MODEL)["model"])
    except (CheckpointError, RuntimeError) as error:
        raise ModelError(f"{folder / MODEL} does not fit {folder / CONFIG}: {error}") from error
    return ExportedModel(model.to(device).eval(), config, categories, device)


def _readme(run: str | PathLike[str], output: Path, config: Config, state: dict[str, Any]) -> str:
    report, names = state["report"], state["categories"]
    rows = {"segm AP": f"{report['segm/AP']:.2f}"} if "segm/AP" in report else {"bbox AP": f"{report['bbox/AP']:.2f}"}
    rows["categories"] = ", ".join(category["name"] for category in names["categories"])
    rows |= {head: ", ".join(classes) for head, classes in names["subcategories"].items()}
    theirs = isinstance(config, AnyModelConfig)
    if not theirs:
        rows["queries"] = str(config.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES)
    return README.format(
        title=output.name,
        source=str(run),
        output=output,
        iteration=report["iteration"],
        kind=f"{config.MODEL.META_ARCHITECTURE} of detectron2" if theirs else "multitask Mask2Former",
        names="detectron2" if theirs else "Mask2Former",
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        lr=effective_lr(config),
        batch=config.SOLVER.IMS_PER_BATCH,
    )


def _versioned(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the version of Mask2Former's names, without which Mask2Former takes them for older ones and renames them."""
    versioned = OrderedDict(state)
    versioned._metadata = {"sem_seg_head": {"version": 2}}  # type: ignore[attr-defined]
    return versioned
