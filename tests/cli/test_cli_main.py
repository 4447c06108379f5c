"""The command line: wrong input is one clear error with exit code 2, and the commands work together."""

from __future__ import annotations

import inspect
import json
import logging
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from fake_study import config as study_config
from fake_study import half_done_study
from test_layers import MODULES, imports
from typer.testing import CliRunner, Result

import raytune_m2f as rm
from raytune_m2f import formats
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.export_check import evaluate_again

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Call the command line in this process, on a wide screen; its log handler is taken back afterwards."""
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 400)
    monkeypatch.setattr("raytune_m2f.cli.console.out.width", 400)
    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.fixture
def config_file(tiny_config: Config, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config.to_yaml())
    return path


def refused(result: Result) -> str:
    """The message of an error of the user's: exit code 2, no traceback, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


def test_commands_call_the_python_api_alone() -> None:
    """They hold no policy: what trains, tunes, exports and predicts is called by `raytune_m2f.api`."""
    policy = ("drive", "launch", "training", "learner", "engines", "export", "export_files", "predict")
    commands = [name for name in MODULES if name.startswith("raytune_m2f.cli")]
    called = {(name, target) for name in commands for _, target in imports(name)}
    assert not {(name, target) for name, target in called if target.split(".")[1:2] and target.split(".")[1] in policy}


COMMANDS: list[tuple[str, Callable[..., Any], set[str]]] = [
    ("train", rm.train, set()), ("tune", rm.tune, set()), ("resume", rm.resume, set()),
    ("extend", rm.Study.extend, {"study"}), ("confirm", rm.Study.confirm, {"study"}),
    ("report", rm.Study.report, {"study"}),
    ("export", rm.export_model, set()), ("evaluate", rm.LoadedModel.evaluate, {"model", "trust"}),
    ("predict", rm.LoadedModel.predict_files, {"model", "trust", "device", "json_lines"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function", "own"), COMMANDS)
def test_options_are_named_as_the_arguments_of_the_api(name: str, function: Callable[..., Any], own: set[str]) -> None:
    command: Any = typer.main.get_command(app)
    options = {parameter.name for parameter in command.commands[name].params if parameter.expose_value}
    options = {option.removeprefix("no_") for option in options}  # --no-doctor is doctor=False
    of_python_alone = {"self", "progress", "on_image", "score_threshold"}
    assert options - own == set(inspect.signature(function).parameters) - of_python_alone


def test_a_wrong_key_is_named_with_the_right_one(run: Run, config_file: Path, tmp_path: Path) -> None:
    message = refused(run("train", "--config", config_file, "--output", tmp_path / "o", "SOLVER.BASE_RL=1e-4"))
    assert "SOLVER.BASE_RL" in message
    assert "SOLVER.BASE_LR" in message
    assert not (tmp_path / "o").exists()


def test_a_wrong_type_is_named_with_what_is_allowed(run: Run, config_file: Path, tmp_path: Path) -> None:
    message = refused(run("train", "--config", config_file, "--output", tmp_path / "o", "SOLVER.MAX_ITER=soon"))
    assert "SOLVER.MAX_ITER" in message
    assert "soon" in message


def test_a_missing_config_file_is_named(run: Run, tmp_path: Path) -> None:
    message = refused(run("train", "--config", tmp_path / "no.yaml", "--output", tmp_path / "o"))
    assert "no.yaml" in message


def test_a_missing_annotation_file_is_named(run: Run, config_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config_file.read_text())
    content["DATASETS"]["REGISTER"]["train"]["annotations"] = "/no/such/annotations.json"
    config_file.write_text(yaml.safe_dump(content))
    assert "/no/such/annotations.json" in refused(run("train", "--config", config_file, "--output", tmp_path / "o"))


def test_an_empty_annotation_file_is_named(run: Run, config_file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    content = yaml.safe_load(config_file.read_text())
    content["DATASETS"]["REGISTER"]["val"]["annotations"] = str(empty)
    config_file.write_text(yaml.safe_dump(content))
    assert "empty.json" in refused(run("train", "--config", config_file, "--output", tmp_path / "o"))


def test_a_space_with_an_unknown_key_is_refused(run: Run, config_file: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("SOLVER.BASE_RL: {type: loguniform, low: 1.0e-5, high: 1.0e-3}\n")
    message = refused(run("tune", "--config", config_file, "--space", space, "--study", tmp_path / "study"))
    assert "space.yaml" in message
    assert "SOLVER.BASE_LR" in message
    assert not (tmp_path / "study").exists()


def test_wrong_data_is_refused_before_a_study_is_made(run: Run, config_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config_file.read_text())
    content["DATASETS"]["SUBCATEGORIES"] = ["colour"]
    config_file.write_text(yaml.safe_dump(content))
    message = refused(run("tune", "--config", config_file, "--space", "demo", "--study", tmp_path / "study"))
    assert "colour" in message
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("workers", ["0", "two", "8:2"])
def test_what_is_no_number_of_workers_is_refused(run: Run, config_file: Path, tmp_path: Path, workers: str) -> None:
    study = tmp_path / "study"
    done = run("tune", "--config", config_file, "--space", "demo", "--study", study, "--workers-per-trial", workers)
    assert f"got '{workers}'; allowed is a number above 0" in refused(done)
    assert not study.exists()


def test_an_argument_that_is_no_pair_is_refused(run: Run, config_file: Path, tmp_path: Path) -> None:
    assert "KEY=VALUE" in refused(run("train", "--config", config_file, "--output", tmp_path / "o", "fast"))


def test_a_path_that_cannot_be_used_is_named(run: Run, config_file: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    assert str(taken) in refused(run("train", "--config", config_file, "--output", taken))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--format", "onxx"], "--format onxx: allowed are native, transformers, onnx, torch; did you mean onnx?"),
     (["--format", "fake"], "--format fake: allowed are native, transformers, onnx, torch")],
)  # fmt: skip
def test_a_format_that_is_none_is_refused(run: Run, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refused(run("export", tmp_path, "--output", tmp_path / "model", *options))


def test_a_format_is_written_by_its_module(
    run: Run, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake_format.py").write_text(
        "def write(exported, folder):\n    (folder / 'fake.txt').write_text(type(exported.model).__name__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(formats.FORMATS, "fake", "fake_format")
    assert run("train", "--config", config_file, "--output", tmp_path / "run").exit_code == 0
    words = ["export", tmp_path / "run", "--output", tmp_path / "model", "--format", "fake", "--skip-verify"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "fake.txt"]
    assert (tmp_path / "model" / "fake.txt").read_text() == "MultiTaskMaskFormer"


def test_status_is_printed_in_one_way(run: Run, tmp_path: Path) -> None:
    study = half_done_study(tmp_path)
    table = run("status", study.root, "--csv").stdout
    assert table.splitlines()[0].startswith("number,state,segm/AP,SOLVER.BASE_LR,")
    assert len(table.splitlines()) == 3
    for two in (["--json", "--csv"], ["--csv", "--watch"], ["--json", "--watch"]):
        assert "do not go together" in refused(run("status", study.root, *two))


def test_best_prints_a_command_and_nothing_else(run: Run, tmp_path: Path) -> None:
    study = half_done_study(tmp_path)
    (study.trial(0) / "config.yaml").write_text(study_config().to_yaml())
    done = run("best", study.root)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    words = shlex.split(line)
    assert words[:3] == ["raytune-m2f", "train", "--config"]
    assert Path(words[3]) == study.trial(0) / "config.yaml"
    assert "trial 0 complete at 80/80, best segm/AP 5.00" in done.stderr


@pytest.mark.parametrize("command", ["status", "resume", "export", "best"])
def test_what_is_no_study_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    more = ["--output", tmp_path / "model"] if command == "export" else []
    assert str(tmp_path) in refused(run(command, tmp_path, *more))


def test_train_resume_export_evaluate_predict(
    run: Run, config_file: Path, tiny_dataset: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_m2f.export_check.in_fresh_process", evaluate_again)
    output = tmp_path / "run"
    first = run("train", "--config", config_file, "--output", output)
    assert first.exit_code == 0, first.output
    assert "segm/AP" in first.stdout
    assert "iteration 4" in (output / "log.txt").read_text()
    assert "--resume" in refused(run("train", "--config", config_file, "--output", output))
    again = run("train", "--config", config_file, "--output", output, "--resume", "SOLVER.MAX_ITER=6")
    assert again.exit_code == 0, again.output
    exported = run("export", output, "--output", tmp_path / "model")
    assert exported.exit_code == 0, exported.output
    assert "verifying 6/6" in exported.stderr
    assert "**Verified**" in (tmp_path / "model" / "README.md").read_text()
    scored = run(
        "evaluate", "--model", tmp_path / "model", "--annotations", tiny_dataset["val_annotations"],
        "--images", tiny_dataset["val_images"], "--output", tmp_path / "scores.json",
    )  # fmt: skip
    assert scored.exit_code == 0, scored.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "segm/AP" in scores["metrics"]
    assert len(scores["confusion"]["texture"]) == 3
    given = ["--model", tmp_path / "model", "--annotations", tiny_dataset["val_annotations"]]
    given += ["--images", tiny_dataset["val_images"], "--output"]
    (tmp_path / "mine.json").write_text("{}")
    assert "mine.json would be written over" in refused(run("evaluate", *given, tmp_path / "mine.json"))
    results = tmp_path / "new" / "predictions.json"
    assert "give two" in refused(run("evaluate", *given, results, "--predictions", results))
    assert run("evaluate", *given, tmp_path / "scores.json", "--predictions", results).exit_code == 0  # ours: replaced
    assert {"image_id", "category_id", "segmentation", "score"} < json.loads(results.read_text())[0].keys()
    assert "predictions.json exists" in refused(run("evaluate", *given, tmp_path / "s.json", "--predictions", results))
    (output / "checkpoints" / "best.pth").write_bytes(b"damaged")
    damaged = run("export", output, "--output", tmp_path / "other")
    assert damaged.exit_code == 1
    assert "--iteration 6" in damaged.stderr
    predicted = run("predict", "--model", tmp_path / "model", "--output", tmp_path / "p", tiny_dataset["val_images"])
    assert predicted.exit_code == 0, predicted.output
    assert len(list((tmp_path / "p").glob("*.png"))) == 6


def test_a_training_says_at_once_what_it_does_and_then_how_far_it_is(
    run: Run, config_file: Path, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    trained = run("train", "--config", config_file, "--output", output)
    first, *others = trained.stderr.splitlines()
    assert first.endswith(
        f"training: 4 iterations of 4 images, scored each 2; heads: color, texture; log: {output}/log.txt"
    )
    assert any("training on cpu, workers: 1, threads of each: " in line for line in others)
    assert any(line.startswith("training 4/4, ") and "loss " in line and "segm/AP " in line for line in others)
    log = (output / "log.txt").read_text()
    assert "iteration 4/4, " in log
    assert " iteration 4/4, " not in trained.stderr, "said twice"
    assert not [line for line in (trained.stderr + trained.stdout).splitlines() if line != line.rstrip()]
    run("export", output, "--skip-verify", "--output", tmp_path / "model")
    paths = ["--annotations", tiny_dataset["val_annotations"], "--images", tiny_dataset["val_images"]]
    assert "evaluating 6/6, " in run("evaluate", "--model", tmp_path / "model", *paths).stderr
    predicted = run("predict", "--model", tmp_path / "model", "--output", tmp_path / "p", tiny_dataset["val_images"])
    assert "predicting 6/6, " in predicted.stderr


@pytest.mark.parametrize("place", [0, 1])
def test_quiet_leaves_results_and_errors_alone(run: Run, config_file: Path, tmp_path: Path, place: int) -> None:
    words = ["train", "--config", config_file, "--output", tmp_path / "run"]
    words.insert(place, "-q")
    done = run(*words)
    assert done.stderr == ""
    assert "segm/AP" in done.stdout
    assert refused(run(*words)).startswith("error: --output ")


def test_verbose_says_where_an_error_arose_and_only_then(run: Run, config_file: Path, tmp_path: Path) -> None:
    words = ["train", "--config", config_file, "--output", tmp_path / "run", "SEED=x"]
    assert "Traceback" not in refused(run(*words))
    assert "in load_config" in run("-v", *words).stderr
    assert "in load_config" in run(*words, "--verbose").stderr
    assert "Traceback" not in refused(run(*words))  # it is not remembered


def test_the_versions_are_told_without_importing_what_they_are_of() -> None:
    script = """
import sys
from typer.testing import CliRunner
from raytune_m2f.cli.main import app
print(CliRunner().invoke(app, ["--version"]).stdout)
assert not {"torch", "ray", "optuna"} & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    versions = dict(line.split() for line in ran.stdout.strip().splitlines())
    assert list(versions) == ["raytune_m2f", "python", "torch", "torchvision", "ray", "optuna"]
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == metadata.version("torch")


@pytest.mark.parametrize(
    "command", ["demo", "train", "tune", "resume", "status", "best", "export", "evaluate", "predict"]
)
def test_every_command_explains_itself_with_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: raytune-m2f {command}" in result.stdout
