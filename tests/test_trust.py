"""Python files that a configuration names run only for who gave it, or trusts it: never because of a folder's content.

detectron2's engine is a stand-in here: its configuration is a dictionary.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from fake_study import create_study, report
from typer.testing import CliRunner

from raytune_m2f import Study
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config, load_config
from raytune_m2f.drive.runner import run_study
from raytune_m2f.engines.detectron2.cfg import LIBRARY
from raytune_m2f.errors import ConfigError, RaytuneM2FError
from raytune_m2f.export import export_run, load_export
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.trial import run_trial
from raytune_m2f.study.directory import PLAN, StudyDirectory, plan_of
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.status import study_status
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import SEGM_AP

SPACE = {"SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-5, "high": 1e-2}}


class Node(dict[str, Any]):
    """As much of detectron2's CfgNode as is asked for."""

    __getattr__ = dict.__getitem__

    def merge_from_other_cfg(self, other: dict[str, Any]) -> None:
        pass


def get_cfg() -> Node:
    model = Node(META_ARCHITECTURE="", WEIGHTS="", MASK_ON=True)
    return Node(
        MODEL=model,
        SOLVER=Node(AMP=Node(), STEPS=()),
        DATASETS=Node(),
        INPUT=Node(),
        TEST=Node(),
        DATALOADER=Node(),
        SEED=0,
    )


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """What the commands set is taken back."""
    yield
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """In place of detectron2's engine."""
    module = ModuleType(LIBRARY)
    module.get_cfg = get_cfg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module


@pytest.fixture
def foreign(tmp_path: Path, engine: ModuleType) -> Iterator[Path]:
    """A module that leaves `ran` beside it wherever it is imported."""
    file = tmp_path / "foreign_module_of_test.py"
    file.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    yield file
    sys.modules.pop(file.stem, None)


def ran(foreign: Path) -> bool:
    """Whether it has run since it was asked last."""
    mark = foreign.with_name("ran")
    there = mark.exists()
    mark.unlink(missing_ok=True)
    sys.modules.pop(foreign.stem, None)
    return there


@pytest.fixture(params=["GeneralizedRCNN", "MultiTaskMaskFormer"])
def values(request: pytest.FixtureRequest, foreign: Path) -> dict[str, Any]:
    return {
        "ENGINE": "detectron2",
        "MODEL": {"META_ARCHITECTURE": request.param, "WEIGHTS": "", **_norm(request.param)},
        "DATASETS": {"IMPORT": [str(foreign)], "TRAIN": ["t"], "TEST": ["v"]},
        "SOLVER": {"MAX_ITER": 8, "STEPS": []},
        "TEST": {"EVAL_PERIOD": 4},
    }


def _norm(network: str) -> dict[str, Any]:
    return {} if network == "GeneralizedRCNN" else {"RESNETS": {"NORM": "GN"}}


@pytest.fixture
def study(values: dict[str, Any], foreign: Path, tmp_path: Path) -> StudyDirectory:
    """One that was made by somebody who gave the configuration; it has a trial with a score and its weights."""
    config = Config.from_dict(values)
    made = create_study(
        tmp_path / "study", config, SearchSpace.from_dict(SPACE), StudySettings(budget=Budget(trials=1))
    )
    record = Record(made, StudyPlan.load(made.plan_file, trust=True))
    record.ask()
    record.absorb(0, {**report(8, 30.0), "images": 2})
    record.settle(0, ended=True)
    checkpoint.save(
        {
            "model": {"w": torch.zeros(1)},
            "config": config.to_dict(),
            "categories": {"categories": [{"id": 1, "name": "a"}], "subcategories": {}},
            "report": report(8, 30.0),
        },
        made.weights(0),
    )
    ran(foreign)
    return made


@pytest.fixture
def model(study: StudyDirectory, tmp_path: Path, foreign: Path) -> Path:
    export_run(study.trial(0), tmp_path / "model")
    assert not ran(foreign)
    return tmp_path / "model"


def test_a_study_is_shown_and_exported_without_running_anything(study: StudyDirectory, foreign: Path) -> None:
    assert study_status(study.root).best == 0
    space = SearchSpace.from_dict(SPACE)
    points, _ = knowledge_of([study.root], Config(), space, StudySettings(budget=Budget(trials=1)))
    assert len(points) == 1
    for command in (
        ["status", "--json"],
        ["status"],
        ["export", "--skip-verify", "--output", str(study.root.parent / "m")],
    ):
        result = CliRunner().invoke(app, [command[0], str(study.root), *command[1:]])
        assert result.exit_code == 0, result.output
    assert not ran(foreign)


def test_a_study_is_shown_where_detectron2_is_not_installed(
    study: StudyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARY, None)
    assert study_status(study.root).trials[0].max_iter == 8


def test_a_study_does_not_go_on_unless_it_is_trusted(study: StudyDirectory, foreign: Path) -> None:
    message = rf"study\.yaml: DATASETS\.IMPORT would run.*{foreign}.*give --trust"
    with pytest.raises(ConfigError, match=message):
        run_study(study.root)
    with pytest.raises(ConfigError, match=message):
        Study(study.root).confirm(top=1)
    with pytest.raises(ConfigError, match=message):
        plan_of(study.root)
    assert not ran(foreign)
    config = plan_of(study.root, trust=True).config
    assert ran(foreign) == (type(config) is not Config)  # of our network, the engine imports them


def test_a_model_is_not_used_unless_it_is_trusted(model: Path, foreign: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml: DATASETS\.IMPORT would run.*{foreign}.*--trust"):
        load_export(model)
    assert not ran(foreign)
    with pytest.raises((RaytuneM2FError, AttributeError)):  # the network is a stand-in too
        load_export(model, trust=True)
    assert ran(foreign) == (values["MODEL"]["META_ARCHITECTURE"] == "GeneralizedRCNN")


def test_every_command_says_how_it_is_allowed(
    study: StudyDirectory, model: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 4000)
    for command in (
        ["resume", str(study.root)],
        ["extend", str(study.root), "--trials", "2"],
        ["extend", str(study.root), "--trials", "2", "--space", "learning_rate"],
        ["confirm", str(study.root), "--top", "1"],
        ["export", str(study.root), "--output", str(model.parent / "m")],
        ["predict", "--model", str(model), "--output", str(model.parent / "p"), str(model)],
        ["evaluate", "--model", str(model), "--annotations", "a.json", "--images", "."],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.output
        assert str(foreign) in result.stderr
        assert "--trust" in result.stderr
        assert "--trust" in CliRunner().invoke(app, [command[0], "--help"], terminal_width=200).stdout
    assert not ran(foreign)


def test_a_base_of_a_model_is_not_trusted_either(model: Path, foreign: Path) -> None:
    (model / "config.yaml").rename(model / "base.yaml")
    (model / "config.yaml").write_text("_BASE_: base.yaml\nDATASETS: {IMPORT: []}\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: DATASETS\.IMPORT"):
        load_export(model)
    assert not ran(foreign)


@pytest.mark.parametrize("named", ["'{}'", "\"('{}',)\"", "{{a: '{}'}}", "[['{}']]"])
def test_another_spelling_is_no_way_around(model: Path, foreign: Path, named: str) -> None:
    content = yaml.safe_load((model / "config.yaml").read_text())
    content["DATASETS"]["IMPORT"] = yaml.safe_load(named.format(foreign))
    (model / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="--trust"):
        load_export(model)
    assert not ran(foreign)


def test_a_search_space_is_no_way_around(foreign: Path, tmp_path: Path, ray_cluster: None) -> None:
    """Of a stored study, or values in its record: the trial refuses them."""
    for key, value in (("DATASETS.IMPORT", f"('{foreign}',)"), ("ENGINE", "detectron2")):
        (tmp_path / key).mkdir()
        run_trial(TrialJob(Config(), (SEGM_AP,)), Place.at(tmp_path / key), 0, {key: value})
        failure = json.loads((tmp_path / key / "failure.json").read_text())
        assert f"{key}: cannot be tuned" in failure["cause"]
    assert not ran(foreign)


def test_who_gives_a_configuration_trusts_it(values: dict[str, Any], foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**values, "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN"}}))
    load_config(tmp_path / "own.yaml")
    assert ran(foreign)
    with pytest.raises(ConfigError, match="--trust"):
        load_config(tmp_path / "own.yaml", trust=False)


def test_what_is_stored_names_no_file_by_itself(tmp_path: Path) -> None:
    made = create_study(
        tmp_path / "study", Config(), SearchSpace.from_dict(SPACE), StudySettings(budget=Budget(trials=1))
    )
    assert plan_of(made.root).config == Config()
    assert "IMPORT: []" in (made.root / PLAN).read_text()
