"""The demo: the road of real data, on synthetic shapes. Generate, tune, export, evaluate, predict, report."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from PIL import Image
from rich.table import Table

import raytune_m2f as rm
from raytune_m2f.cli.console import err, is_quiet, print_table, show_progress
from raytune_m2f.cli.tables import study_progress
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.data import CocoDataset, generate_shapes, load_coco, read_image
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.progress import duration, nobody
from raytune_m2f.study.status import Silent, StudyStatus
from raytune_m2f.visualize import Picture, contact_sheet, draw_instances, ground_truth_instances

log = logging.getLogger(__name__)

CONFIGS = ("demo", "demo_full")
PICTURES = 12
SURE_ENOUGH = 0.35  # after minutes of training from scratch no score is near one
AS_GOOD_AS_EQUAL = 0.01  # of an AP of 100: images are predicted one by one, and were scored in batches


def run_demo(output: Path, *, trials: int, seed: int, full: bool = False) -> rm.Study:
    """Run the demo into a directory, and print what came of it and where everything is.

    Args:
        full: train as `configs/demo_full.yaml` says.

    Raises:
        TrainingError: every trial failed.
        RaytuneM2FError: the exported model does not score what the study says.
    """
    start = time.monotonic()
    data = _make_data(output, seed)
    log.info("2/6 tuning: %d trials in %s, the configuration's own values first", trials, output / "study")
    for name in CONFIGS:
        (output / f"{name}.yaml").write_bytes(shipped_configs()[name].read_bytes())
    progress = Silent() if is_quiet() else study_progress(err)
    study = rm.tune(
        output / f"{CONFIGS[full]}.yaml", "demo", output / "study", trials=trials, seed=seed, progress=progress
    )
    log.info("3/6 exporting the best trial to %s", output / "model")  # which says if it has found nothing
    status, model = study.status(), study.export(output / "model", progress=show_progress("verifying", "image"))
    best = status.best_trial
    assert best is not None  # `tune` raises if every trial failed
    log.info("4/6 evaluating the exported model on %s", data["val_annotations"])
    metrics = model.evaluate(data["val_annotations"], data["val_images"], progress=show_progress("evaluating", "image"))
    require_equal(metrics["segm/AP"], best.best or 0.0)
    log.info("5/6 predicting validation images in %s", output / "predictions")
    shown = sorted(data["val_images"].iterdir())[:PICTURES]
    silent = nobody if is_quiet() else None
    model.predict_files(shown, output / "predictions", min_score=SURE_ENOUGH, progress=silent)
    pictures = [read_image(output / "predictions" / image.name) for image in shown]
    _save_sheet(pictures, output / "predictions.png")
    log.info("6/6 writing the report of the study: %s", output / "report.html")
    study.report(output / "report.html", progress=silent)
    print_table(_summary(status, output, time.monotonic() - start))
    return study


def _make_data(output: Path, seed: int) -> dict[str, Path]:
    """Synthetic shapes, and a picture of their true masks."""
    log.info("1/6 generating synthetic shapes in %s", output / "data")
    data = generate_shapes(output / "data", seed=seed)
    draw_truth(load_coco("val", data["val_annotations"], data["val_images"], ("color", "texture")), output / "data.png")
    log.info("    first picture: %s, validation images with their true masks and labels", output / "data.png")
    return data


def draw_truth(dataset: CocoDataset, file: Path) -> None:
    """A sheet of the first images with their true masks and labels."""
    pictures = [
        draw_instances(
            read_image(record.file),
            ground_truth_instances(record, dataset.categories),
            dataset.categories,
            show_scores=False,
        )
        for record in dataset.records[:PICTURES]
    ]
    _save_sheet(pictures, file)


def _save_sheet(pictures: list[Picture], file: Path) -> None:
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(file)


def require_equal(scored: float, reported: float) -> None:
    if not abs(scored - reported) < AS_GOOD_AS_EQUAL:
        raise RaytuneM2FError(
            f"the exported model scores segm AP {scored:.4f}, and its trial reported {reported:.4f}: they should be "
            "equal. Please report this, with what `raytune-m2f --version` prints."
        )
    log.info("    segm AP %.2f, as the study says", scored)


def _summary(status: StudyStatus, output: Path, seconds: float) -> Table:
    own, best = status.trials[0], status.best_trial
    short = sum(trial.iteration < trial.max_iter for trial in status.trials)
    table = Table(title="demo", title_justify="left", show_header=False)
    if status.found_nothing:
        table.add_row("best trial", "none: no trial has found anything; see the warning")
    elif best is not None:
        table.add_row("best trial", f"{best.number}: segm AP {best.best:.2f} at iteration {best.best_iteration}")
    table.add_row("the configuration's own values", "no score" if own.best is None else f"segm AP {own.best:.2f}")
    table.add_row("the exported model", "evaluated: the same segm AP as its trial reported")
    table.add_row("trials", f"{len(status.trials)}, {short} of them not trained to their end")
    table.add_row("time", duration(seconds))
    for what, where in (
        ("data", "data"),
        ("true masks and labels", "data.png"),
        ("configuration", f"{CONFIGS[0]}.yaml"),
        ("study", "study"),
        ("exported model", "model"),
        ("predictions", "predictions.png"),
        ("all of it in a browser", "report.html"),
    ):
        table.add_row(what, str(output / where))
    table.add_row("look at the study", f"raytune-m2f status {output / 'study'}")
    return table
