"""Studies to report on, without a network: scripted curves, stops and failures."""

from __future__ import annotations

from pathlib import Path

from fake_study import MAX_ITER, PERIOD, leave_reports, new_study, open_record, report, score, settings

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.trial_dir import write_failure

NASTY = "</script><script>alert('a & b')</script>"
"""In the message of a failure."""


def made_study(
    root: Path, *, trials: int = 9, failed: tuple[int, ...] = (4, 6), method: str = "asha"
) -> StudyDirectory:
    """The configuration's own values first, then a search; ASHA stops some, and two fail for one cause."""
    stopping = EarlyStopping.model_validate({"method": method})
    study = new_study(root, settings(trials=trials, early_stopping=stopping, sampler="random"))
    record = open_record(study)
    record.note_command("raytune-m2f tune --config my.yaml --space learning_rate --study study")
    enqueue_points(record)
    for _ in range(trials):
        number = record.ask()
        if number in failed:
            study.trial(number).mkdir(parents=True)
            write_failure(study.trial(number), ValueError(f"label {number} of /data/{number}.json: {NASTY}"))
            record.settle(number, ended=True)
            continue
        lr = record.trial(number).params["SOLVER.BASE_LR"]
        for step in range(PERIOD, MAX_ITER + 1, PERIOD):
            leave_reports(study.trial(number), {step: score(lr, step)})
            told = {**report(step, score(lr, step)), "segm/AP_se": 1.5}
            if record.absorb(number, told):
                break
        record.settle(number, ended=True)
    return study
