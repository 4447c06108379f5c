"""The demo: the road of real data, on synthetic shapes. Generate, tune, export, evaluate, predict."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import nn

from raytune_m2f.cli.console import print_table, show_progress
from raytune_m2f.cli.introduce import require_empty
from raytune_m2f.cli.tables import shown_progress
from raytune_m2f.config import load_config
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.data import CocoDataset, ImageRecord, generate_shapes, load_coco, read_image
from raytune_m2f.drive.runner import run_study
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.export import ExportedModel, export_run, load_export
from raytune_m2f.model import UNKNOWN, Instances
from raytune_m2f.predict import evaluate_export, predict_files
from raytune_m2f.progress import duration
from raytune_m2f.study.layout import create_study
from raytune_m2f.study.settings import Budget, StudySettings
from raytune_m2f.study.space import load_space
from raytune_m2f.study.status import StudyStatus
from raytune_m2f.visualize import contact_sheet, draw_instances

log = logging.getLogger(__name__)

CONFIGS = ("demo", "demo_full")
PICTURES = 12
SURE_ENOUGH = 0.35  # after minutes of training from scratch no score is near one
AS_GOOD_AS_EQUAL = 0.01  # of an AP of 100: images are predicted one by one, and were scored in batches


def run_demo(output: Path, *, trials: int, seed: int, full: bool = False) -> StudyStatus:
    """Run the demo into an empty directory and print where everything is.

    Args:
        full: train as `configs/demo_full.yaml` says.

    Raises:
        InputError: `output` is not empty.
        TrainingError: every trial failed.
        RaytuneM2FError: the exported model does not score what the study says.
    """
    require_empty(output)
    start = time.monotonic()
    log.info("1/5 generating synthetic shapes in %s", output / "data")
    data = generate_shapes(output / "data", seed=seed)
    shown = sorted(data["val_images"].iterdir())[:PICTURES]
    _draw_truth(
        load_coco("val", data["val_annotations"], data["val_images"], ("color", "texture")), output / "data.png"
    )
    log.info("    first picture: %s, validation images with their true masks and labels", output / "data.png")

    log.info("2/5 tuning: %d trials in %s, the configuration's own values first", trials, output / "study")
    status = _tune(output, Budget(trials=trials), seed, full)
    best = status.best_trial
    assert best is not None  # run_study raises if every trial failed

    log.info("3/5 exporting the best trial to %s", output / "model")
    report = export_run(Path(best.directory), output / "model")
    exported = load_export(output / "model")

    log.info("4/5 evaluating the exported model on %s", data["val_annotations"])
    _require_equal(_scored(exported, data["val_annotations"], data["val_images"]), report["segm/AP"])

    log.info("5/5 predicting validation images in %s", output / "predictions")
    predict_files(exported, shown, output / "predictions", score_threshold=SURE_ENOUGH)
    _sheet([output / "predictions" / image.name for image in shown], output / "predictions.png")
    print_table(_summary(status, output, time.monotonic() - start))
    return status


def _tune(output: Path, budget: Budget, seed: int, full: bool) -> StudyStatus:
    """The configuration beside its data, and a study of it."""
    for name in CONFIGS:
        text = shipped_configs()[name].read_text(encoding="utf-8")
        (output / f"{name}.yaml").write_text(text, encoding="utf-8")
    config = load_config(output / f"{CONFIGS[full]}.yaml")
    create_study(output / "study", config, load_space("demo", config), StudySettings(budget=budget, seed=seed))
    with shown_progress() as progress:
        return run_study(output / "study", progress=progress)


def _scored(exported: ExportedModel, annotations: Path, images: Path) -> float:
    """Segm AP as `raytune-m2f evaluate` finds it."""
    with show_progress("evaluating", "image") as progress:
        evaluator = evaluate_export(
            exported, annotations, images, progress=lambda done, total, name: progress(done, total)
        )
    return evaluator.evaluate()["segm/AP"]


def _require_equal(scored: float, reported: float) -> None:
    if not abs(scored - reported) < AS_GOOD_AS_EQUAL:
        raise RaytuneM2FError(
            f"the exported model scores segm AP {scored:.4f}, and its trial reported {reported:.4f}: they should be "
            "equal. Please report this, with what `raytune-m2f --version` prints."
        )
    log.info("    segm AP %.2f, as the study says", scored)


def _draw_truth(dataset: CocoDataset, file: Path) -> None:
    pictures = [
        draw_instances(read_image(record.file), _truth(record, dataset), dataset.categories, show_scores=False)
        for record in dataset.records[:PICTURES]
    ]
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(file)


def _truth(record: ImageRecord, dataset: CocoDataset) -> Instances:
    """The annotations of an image, as if they had been predicted with certainty."""
    found, size = record.annotations, (record.height, record.width)
    masks = np.stack([annotation.mask(*size) for annotation in found])
    return Instances(
        scores=torch.ones(len(found)),
        labels=torch.tensor([annotation.label for annotation in found]),
        masks=torch.from_numpy(masks),
        queries=torch.arange(len(found)),
        subprobs={
            head: _certain([annotation.sublabels[head] for annotation in found], len(names))
            for head, names in dataset.categories.subcategories.items()
        },
    )


def _certain(labels: Sequence[int], classes: int) -> torch.Tensor:
    """(K, C): 1 for the class of each, nothing for an unknown one."""
    known = torch.tensor([label != UNKNOWN for label in labels])
    encoded: torch.Tensor = nn.functional.one_hot(torch.tensor(labels).clamp(min=0), classes)
    return encoded * known[:, None].float()


def _sheet(files: Sequence[Path], file: Path) -> None:
    pictures = [np.asarray(Image.open(one)) for one in files]
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(file)


def _summary(status: StudyStatus, output: Path, seconds: float) -> Table:
    own, best = status.trials[0], status.best_trial
    stopped = status.counts.get("stopped", 0)
    table = Table(title="demo", title_justify="left", show_header=False)
    if best is not None:
        table.add_row("best trial", f"{best.number}: segm AP {best.best:.2f} at iteration {best.best_iteration}")
    table.add_row("the configuration's own values", "no score" if own.best is None else f"segm AP {own.best:.2f}")
    table.add_row("the exported model", "evaluated: the same segm AP as its trial reported")
    table.add_row("trials", f"{len(status.trials)}, {stopped} of them stopped early by ASHA")
    table.add_row("time", duration(seconds))
    for what, where in (
        ("data", "data"),
        ("true masks and labels", "data.png"),
        ("configuration", f"{CONFIGS[0]}.yaml"),
        ("study", "study"),
        ("exported model", "model"),
        ("predictions", "predictions.png"),
    ):
        table.add_row(what, str(output / where))
    table.add_row("look at the study", f"raytune-m2f status {output / 'study'}")
    return table
