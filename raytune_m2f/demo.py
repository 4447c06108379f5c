"""The demo: the road of real data, on synthetic shapes. Generate, tune, export, predict."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

import configs
from raytune_m2f.config import load_config
from raytune_m2f.console import err, out
from raytune_m2f.data import generate_shapes
from raytune_m2f.errors import InputError
from raytune_m2f.export import export_run, load_export
from raytune_m2f.predict import predict_files
from raytune_m2f.tuning import (
    Budget,
    StudyProgress,
    StudySettings,
    StudyStatus,
    create_study,
    load_space,
    run_study,
)
from raytune_m2f.visualize import contact_sheet

log = logging.getLogger(__name__)

CONFIG = "demo.yaml"
PICTURES = 12
SURE_ENOUGH = 0.35  # after minutes of training from scratch no score is near one


def run_demo(output: Path, *, trials: int, seed: int) -> StudyStatus:
    """Run the demo into an empty directory and print where everything is.

    Raises:
        InputError: `output` is not empty.
        TrainingError: every trial failed.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"--output {output} is not empty: give a new directory, or remove it.")
    log.info("1/4 generating synthetic shapes in %s", output / "data")
    data = generate_shapes(output / "data", seed=seed)
    config_file = output / CONFIG
    packaged = Path(configs.__file__).with_name(CONFIG)
    config_file.write_text(packaged.read_text(encoding="utf-8"), encoding="utf-8")
    config = load_config(config_file)

    log.info("2/4 tuning: %d trials in %s, the configuration's own values first", trials, output / "study")
    settings = StudySettings(budget=Budget(trials=trials), seed=seed)
    create_study(output / "study", config, load_space("demo", config), settings)
    with StudyProgress(err) as progress:
        status = run_study(output / "study", progress=progress)

    log.info("3/4 exporting the best trial to %s", output / "model")
    best = status.best_trial
    assert best is not None  # run_study raises if every trial failed
    export_run(Path(best.directory), output / "model")

    log.info("4/4 predicting validation images in %s", output / "predictions")
    images = sorted(data["val_images"].iterdir())[:PICTURES]
    predict_files(load_export(output / "model"), images, output / "predictions", score_threshold=SURE_ENOUGH)
    pictures = [np.asarray(Image.open(output / "predictions" / image.name)) for image in images]
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(output / "predictions.png")
    out.print(_summary(status, output))
    return status


def _summary(status: StudyStatus, output: Path) -> Table:
    own, best = status.trials[0], status.best_trial
    stopped = status.counts.get("stopped", 0)
    table = Table(title="demo", title_justify="left", show_header=False)
    if best is not None:
        table.add_row("best trial", f"{best.number}: segm AP {best.best:.2f} at iteration {best.best_iteration}")
    table.add_row("the configuration's own values", "no score" if own.best is None else f"segm AP {own.best:.2f}")
    table.add_row("trials", f"{len(status.trials)}, {stopped} of them stopped early by ASHA")
    for what, where in (
        ("data", "data"),
        ("configuration", CONFIG),
        ("study", "study"),
        ("exported model", "model"),
        ("predictions", "predictions.png"),
    ):
        table.add_row(what, str(output / where))
    table.add_row("look at the study", f"optuna-dashboard {output / 'study' / 'optuna.journal'}")
    return table
