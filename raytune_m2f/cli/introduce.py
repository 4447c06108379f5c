"""What a command says first, before the libraries that take seconds to import: what it is about to do, and where."""

from __future__ import annotations

import logging
from pathlib import Path

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError

log = logging.getLogger(__name__)


def announce_training(config: Config, output: str) -> None:
    log.info("training: %s; log: %s/log.txt", in_words(config), output.rstrip("/"))


def announce_study(config: Config, study: str, trials: int | None) -> None:
    count = "trials" if trials is None else f"{trials} trials"
    log.info("study %s: %s of %s; logs: %s/trials/*/log.txt", study, count, in_words(config), study.rstrip("/"))


def in_words(config: Config) -> str:
    """How long and on what is trained: "400 iterations of 4 images, scored each 50; heads: ripeness, damage"."""
    period, end = config.value("TEST.EVAL_PERIOD"), config.value("SOLVER.MAX_ITER")
    scored = f"scored each {period}" if 0 < period < end else "scored at the end"
    text = f"{end} iterations of {config.value('SOLVER.IMS_PER_BATCH')} images, {scored}"
    if not config.knows("DATASETS.SUBCATEGORIES"):
        return text
    return f"{text}; heads: {', '.join(config.value('DATASETS.SUBCATEGORIES')) or 'none'}"


def require_empty(output: Path) -> None:
    """Raises InputError if there is something in `--output`."""
    if output.exists() and any(output.iterdir()):
        raise InputError(f"--output {output} is not empty: give a new directory, or remove it.")
