"""What a study has learned, from its record, with the real model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_study import LR, MAX_ITER, PERIOD, leave_reports, new_study, open_record, report, score, settings
from typer.testing import CliRunner

import raytune_m2f as rm
from raytune_m2f.cli.main import app
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.study.status import study_status


def run(root: Path, trials: int = 9, asked: StudySettings | None = None) -> StudyDirectory:
    """A study of trials that end; every third is as if it had been stopped half-way."""
    stopping = EarlyStopping(method="none")
    study = new_study(root, asked or settings(trials=trials, sampler="random", early_stopping=stopping))
    record = open_record(study)
    for number in [record.ask() for _ in range(trials)]:
        lr = record.values(record.trial(number))[LR]
        end = MAX_ITER // 2 if number % 3 == 2 else MAX_ITER
        for iteration in range(PERIOD, end + 1, PERIOD):
            leave_reports(study.trial(number), {iteration: score(lr, iteration)})
            record.absorb(number, report(iteration, score(lr, iteration)))
        record.settle(number, ended=True)
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyDirectory:
    return run(tmp_path_factory.mktemp("learned"))


def test_the_only_key_explains_all_and_is_best_at_its_peak(study: StudyDirectory) -> None:
    insight = rm.Study(study.root).insight()
    assert (insight.score, insight.trials, insight.missing) == ("segm/AP", 9, None)
    (key,) = insight.keys
    assert key.key == LR
    assert key.importance > 0.9
    assert key.low is not None
    assert key.high is not None
    assert key.low <= key.best <= key.high
    assert abs(math.log10(key.best) + 3) < 0.75
    assert insight.gain is not None
    assert insight.gain.mean >= 0


def test_rungs_are_those_that_early_stopping_would_have(study: StudyDirectory) -> None:
    insight = rm.Study(study.root).insight()
    assert [rung.iteration for rung in insight.rungs] == [10, 30]
    assert [rung.trials for rung in insight.rungs] == [6, 6]
    assert insight.rungs[0].spearman == pytest.approx(1.0)
    assert insight.advice.endswith("a new study saves much with --early-stopping promotion")


def test_status_shows_it_and_its_json_has_the_same(study: StudyDirectory) -> None:
    insight = study_status(study.root, insight=True).insight
    assert insight is not None
    shown = CliRunner().invoke(app, ["status", str(study.root)]).stdout
    for line in insight.lines():
        assert line in shown
    printed = json.loads(CliRunner().invoke(app, ["status", str(study.root), "--json"]).stdout)
    assert printed["insight"] == json.loads(json.dumps(asdict(insight)))
    assert rm.Study(study.root).status().insight is None, "it is not made unless it is asked for"


def test_too_little_is_said_in_python_and_passed_over_in_the_table(tmp_path: Path) -> None:
    few = run(tmp_path, trials=3)
    assert rm.Study(few.root).insight().missing == "3 trials have a score, and 6 are needed"
    assert "learned" not in CliRunner().invoke(app, ["status", str(few.root)]).stdout


def test_nothing_is_said_of_population_based_training(tmp_path: Path) -> None:
    asked = settings(trials=7, sampler="random", early_stopping=EarlyStopping(method="pbt"))
    missing = rm.Study(run(tmp_path, 7, asked).root).insight().missing
    assert missing is not None
    assert "other values" in missing
