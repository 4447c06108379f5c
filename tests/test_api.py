"""The Python API: the documented notebook runs as it stands, predictions are read by name, wrong input is one error."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from documented import REPOSITORY, blocks
from fake_study import MAX_ITER, config, laid_out, leave_reports, new_study, open_record, report, settings, space
from PIL import Image

import raytune_m2f as rm
from raytune_m2f.api.models import Instance, LoadedModel, Prediction
from raytune_m2f.config import Config
from raytune_m2f.data import Categories, generate_shapes
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import (
    ConfigError,
    DatasetError,
    InputError,
    MissingDependencyError,
    SearchSpaceError,
    StudyError,
)
from raytune_m2f.evaluation import encode_masks
from raytune_m2f.export_check import evaluate_again
from raytune_m2f.model import PackedInstances
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

RUN_STUDY = "raytune_m2f.drive.runner.run_study"
RAY_SESSION = "raytune_m2f.launch.session.ray_session"


# The page


@pytest.fixture
def after_the_demo(tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is one in which `make demo` was, but for a training of seconds."""
    data = generate_shapes(tmp_path / "demo/data", train_images=12, val_images=6, image_size=64, max_instances=4)
    registered = {
        f"shapes_{name}": {"annotations": str(data[f"{name}_annotations"]), "images": str(data[f"{name}_images"])}
        for name in ("train", "val")
    }
    content = tiny_config.to_dict()
    content["DATASETS"].update(REGISTER=registered, TRAIN=["shapes_train"], TEST=["shapes_val"])
    (tmp_path / "demo/demo.yaml").write_text(Config.from_dict(content, source="test").to_yaml())
    monkeypatch.chdir(tmp_path)


def run_here(target: str | StudyDirectory | NewStudy, *, extension: Extension | None = None, **_: object) -> None:
    """Stands for Ray: trains one trial after the other, in this process."""
    record = open_record(laid_out(target))
    if extension is not None:
        extension.of(record.plan, record.usage(), record.trials()).save(record.directory.plan_file)
        record = open_record(record.directory)
    enqueue_points(record)
    while record.plan.settings.budget.allows_new_trial(record.usage()):
        number = record.ask()
        values = record.values(record.trial(number))
        folder = record.directory.trial(number)
        train_trial(record.plan.config.with_values(values), TrialContext(folder, device=torch.device("cpu")))
        record.reconcile()
        record.settle(number, ended=True)


@pytest.mark.usefixtures("after_the_demo")
def test_the_documented_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/python.md, in its order."""
    monkeypatch.setattr(RUN_STUDY, run_here)
    monkeypatch.setattr(RAY_SESSION, lambda address: nullcontext())
    monkeypatch.setattr("raytune_m2f.export_check.in_fresh_process", evaluate_again)  # which takes seconds
    run_the_page()


@pytest.mark.slow
@pytest.mark.usefixtures("after_the_demo", "ray_cluster")
def test_the_documented_notebook_with_ray() -> None:
    run_the_page()


def run_the_page() -> None:
    names: dict[str, Any] = {}
    for block in blocks(REPOSITORY / "docs/python.md", "python"):
        exec(compile(block.text, str(block), "exec"), names)
    study, found, model = names["study"], names["found"], names["model"]
    assert study.status().usage["trials"] == 6
    assert isinstance(found, Prediction)
    assert isinstance(model, rm.LoadedModel)
    assert names["scores"]["segm/AP"] == pytest.approx(study.best.best, abs=1.0)
    assert len(list(Path("predictions").glob("*.png"))) == 6
    assert Path("models/single/model.pth").is_file()
    assert "rm.load_model" in Path("models/notebook/README.md").read_text()


# A study


def scored_study(root: Path, *values: float) -> StudyDirectory:
    study = new_study(root, settings(trials=4))
    record = open_record(study)
    for value in values or (5.0, 7.0):
        number = record.ask()
        leave_reports(study.trial(number), {MAX_ITER: value})
        record.absorb(number, report(MAX_ITER, value))
        record.settle(number)
    return study


def test_a_study_says_how_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scored_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    study = rm.Study("study")
    assert repr(study) == "Study('study': 2 of 4 trials started, best segm/AP 7.00 (trial 1))"
    monkeypatch.chdir("/")
    assert study.address == str(made.root), "a notebook may change its directory"
    assert study.best is not None
    assert (study.best.number, len(study.trials)) == (1, 2)
    assert study.status().resumable


def test_zero_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RUN_STUDY, lambda *_, **__: None)
    study = rm.Study(scored_study(tmp_path, 0.0, 0.0).root)
    assert repr(study).endswith("2 of 4 trials started, no trial has found anything)")
    study.resume()
    assert "no trial has found anything: the best segm/AP is 0.00" in capsys.readouterr().err
    rm.Study(scored_study(tmp_path / "other").root).resume()
    assert "found anything" not in capsys.readouterr().err


def test_trials_are_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    table = rm.Study(scored_study(tmp_path).root).trials_dataframe()
    assert table["segm/AP"].tolist() == [5.0, 7.0]
    assert table["state"].tolist() == ["complete", "complete"]
    assert {"SOLVER.BASE_LR", "iteration", "directory"} < set(table.columns)
    assert table.index.name == "number"


def test_a_trial_is_trained_again_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = scored_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    study = rm.Study("study")
    with pytest.raises(StudyError, match=r"trial 1 has no config\.yaml in .*0001: it has not begun"):
        study.train_command()
    for number in (0, 1):
        (made.trial(number) / "config.yaml").write_text(config().to_yaml())
    with caplog.at_level("INFO", logger="raytune_m2f"):
        command = study.train_command()
    assert command == "raytune-m2f train --config study/trials/0001/config.yaml --output runs/study_1"
    assert "trial 1 complete at 80/80, best segm/AP 7.00" in caplog.text
    assert "/0000/" in study.train_command(trial=0)
    with pytest.raises(StudyError, match=r"trial 7 of the study .* does not exist\. It has 2 trials"):
        study.train_command(trial=7)
    asked = made.plan_file.read_text().replace(
        "    workers: 1\n    gpus_per_worker: null", "    workers: '2:4'\n    gpus_per_worker: 0.5"
    )
    made.plan_file.write_text(asked)
    assert study.train_command().endswith(" --workers 4 --gpus-per-worker 0.5")


def test_without_pandas_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = rm.Study(scored_study(tmp_path).root)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas"):
        study.trials_dataframe()


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    for action in (rm.Study, rm.resume):
        with pytest.raises(StudyError, match="is no study directory"):
            action(tmp_path)


# What `tune` decides


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[StudyPlan]:
    """The plans of studies that would have run; neither data is read nor Ray started."""
    plans: list[StudyPlan] = []

    def run(new: Any, **_: object) -> None:
        with new.laid_out() as study:
            plans.append(open_record(study).plan)

    monkeypatch.setattr(RUN_STUDY, run)
    monkeypatch.setattr("raytune_m2f.drive.preflight.check_before_start", lambda *_, **__: [])
    monkeypatch.setattr(RAY_SESSION, lambda address: nullcontext())
    return plans


def test_defaults(tmp_path: Path, planned: list[StudyPlan]) -> None:
    study = rm.tune(config(), space(), tmp_path / "a")
    assert study.address == str(tmp_path / "a")
    rm.tune(config(), space(), tmp_path / "b", time="2h")
    rm.tune(config(), space(), tmp_path / "c", iterations=100, early_stopping="none", metric=["segm/AP", "-loss"])
    budgets = [plan.settings.budget.model_dump(exclude_none=True) for plan in planned]
    assert budgets == [{"trials": 20}, {"seconds": 7200.0}, {"iterations": 100}]
    assert [plan.settings.early_stopping.method for plan in planned] == ["promotion", "promotion", "none"]
    assert [plan.settings.metrics for plan in planned][1:] == [("segm/AP",), ("segm/AP", "-loss")]


@pytest.mark.parametrize("asked", [True, False])
def test_the_doctor_is_asked_first_and_a_problem_ends_the_call(
    tmp_path: Path, planned: list[StudyPlan], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    def check(*_: object, doctor: bool, **__: object) -> list[str]:
        if doctor:
            raise StudyError("doctor has found 1 problem")
        return []

    monkeypatch.setattr("raytune_m2f.drive.preflight.check_before_start", check)
    with pytest.raises(StudyError, match="1 problem") if asked else nullcontext():
        if asked:  # by default
            rm.tune(config(), space(), tmp_path / "study")
        else:
            rm.tune(config(), space(), tmp_path / "study", doctor=False)
    assert len(planned) == (not asked)
    assert (tmp_path / "study").exists() == (not asked)


def test_earlier_studies_are_one_or_several(tmp_path: Path, planned: list[StudyPlan]) -> None:
    earlier = [scored_study(tmp_path / name).root for name in ("a", "b")]
    cases: list[Any] = [earlier[0], str(earlier[0]), earlier]
    for number, given in enumerate(cases):
        study = rm.tune(config(), space(), tmp_path / str(number), from_study=given)
        assert [origin for origin, _ in planned[-1].points] == ["earlier"]
        told = open_record(StudyDirectory.at(study.address)).trials()
        assert {str(trial.user_attrs["prior"]).partition(" of ")[2] for trial in told} == set(
            map(str, earlier if given is earlier else earlier[:1])
        )


def test_a_prior_that_nothing_reads_is_named(
    tmp_path: Path, planned: list[StudyPlan], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = {"type": "loguniform", "low": 1e-5, "high": 1e-2}
    believed = rm.SearchSpace.from_dict({"SOLVER.BASE_LR": {**line, "prior": {"confidence": "high"}}})
    study = rm.tune(config(), believed, tmp_path / "study", sampler="tpe")
    monkeypatch.setattr(RUN_STUDY, lambda *_, **__: None)
    study.extend(space=believed, trials=1)
    assert len([text for text in caplog.messages if "--sampler tpe reads none" in text]) == 2
    assert planned[0].space.entries == believed.entries


@pytest.mark.parametrize(("trials", "expected"), [(None, 3), (2, 2), (9, 3)])
def test_a_grid_is_tried_as_a_whole(
    tmp_path: Path, planned: list[StudyPlan], trials: int | None, expected: int
) -> None:
    rates = rm.SearchSpace.from_dict({"SOLVER.BASE_LR": {"type": "categorical", "choices": [1e-4, 1e-3, 1e-2]}})
    rm.tune(config(), rates, tmp_path / "study", trials=trials, sampler="grid")
    assert planned[0].settings.budget.trials == expected
    assert planned[0].settings.early_stopping.method == "none"


def test_overrides_are_pairs_or_values(tmp_path: Path, planned: list[StudyPlan]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(config().to_yaml())
    given: list[tuple[Any, Any]] = [
        (file, ["SOLVER.BASE_LR=0.5"]), (file, {"SOLVER.BASE_LR": 0.5}), (file, {"SOLVER": {"BASE_LR": 0.5}}),
        (config(), {"SOLVER.BASE_LR": 0.5}),
    ]  # fmt: skip
    wide = rm.SearchSpace.from_dict({"SOLVER.WEIGHT_DECAY": {"type": "uniform", "low": 0.0, "high": 0.1}})
    for number, (chosen, overrides) in enumerate(given):
        rm.tune(chosen, wide, tmp_path / str(number), overrides=overrides)
    assert [plan.config.value("SOLVER.BASE_LR") for plan in planned] == [0.5] * 4
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_RL"):
        rm.load_config(file, {"SOLVER.BASE_RL": 1})
    with pytest.raises(InputError, match="give a dictionary"):
        rm.tune(config(), wide, tmp_path / "x", overrides=["SOLVER.BASE_LR=1"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 0}, r"budget\.trials: got 0"),
        ({"trials": "eight"}, r"budget\.trials: got 'eight'"),
        ({"sampler": "best"}, r"sampler: got 'best'"),
        ({"early_stopping": "soon"}, r"method: got 'soon'"),
        ({"workers_per_trial": 0}, "got '0'; allowed is a number above 0"),
        ({"constraint": "low"}, "constraint 'low'"),
        ({"metric": ()}, "a study needs a metric"),
        ({"grace": 500}, "--grace 500"),
    ],
)
def test_a_wrong_setting_is_one_of_our_errors(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rm.tune(config(), space(), tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("time", ["soon", 0, -1.0, float("nan"), float("inf")])
def test_what_is_no_duration(tmp_path: Path, time: Any) -> None:
    with pytest.raises(InputError, match="allowed: a duration above 0"):
        rm.tune(config(), space(), tmp_path / "study", time=time)
    with pytest.raises(InputError, match="allowed: a duration above 0"):
        rm.Study(new_study(tmp_path).root).extend(time=time)


def test_a_space_is_checked_for_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(SearchSpaceError, match=r"SOLVER\.BASE_LR"):
        rm.tune(config(), rm.SearchSpace.from_dict({"SOLVER.BASE_RL": {"type": "int", "low": 1, "high": 2}}), tmp_path)


def test_amounts_are_above_zero(tmp_path: Path) -> None:
    study = rm.Study(scored_study(tmp_path).root)
    with pytest.raises(StudyError, match="trials: got -1, allowed: a number above 0"):
        study.extend(trials=-1)
    with pytest.raises(StudyError, match="top 0"):
        study.confirm(top=0)


# Predictions


CATEGORIES = Categories((1, 7), ("date", "fig"), {"ripeness": ("green", "ripe")})


class Predictor:
    """Stands for an `ExportedModel` that finds two rectangles, one without a pixel, and one below any threshold."""

    categories, device = CATEGORIES, torch.device("cpu")

    def predict_encoded(self, image: np.ndarray[Any, Any]) -> PackedInstances[Any]:
        masks = torch.zeros(4, *image.shape[:2], dtype=torch.bool)
        masks[0, 2:5, 1:9] = masks[1, 0, 0] = masks[3] = True
        ripeness = torch.tensor([[0.1, 0.8], [0.6, 0.2], [0.5, 0.4], [0.5, 0.4]])
        scores, labels = torch.tensor([0.9, 0.6, 0.55, 0.1]), torch.tensor([1, 0, 0, 0])
        return PackedInstances(scores, labels, encode_masks(masks), torch.arange(4), {"ripeness": ripeness})


@pytest.fixture
def model() -> LoadedModel:
    predictor: Any = Predictor()
    return LoadedModel(Path("models/x"), predictor)


PIXELS = np.zeros((12, 16, 3), np.uint8)


def test_instances_are_read_by_name(model: LoadedModel) -> None:
    found = model.predict(PIXELS)
    assert (len(found), found.categories) == (2, ["fig", "date"])
    assert found.masks.shape == (2, 12, 16)
    assert found.masks.dtype == bool
    assert found.masks.sum() == 3 * 8 + 1
    assert found.boxes.tolist() == [[1, 2, 9, 5], [0, 0, 1, 1]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert [label.name for label in found.subcategories["ripeness"]] == ["ripe", "green"]
    first, second = found
    assert isinstance(first, Instance)
    assert (first.category, first.subcategories["ripeness"].name) == ("fig", "ripe")
    assert first.subcategories["ripeness"].probability == pytest.approx(0.8)
    assert [instance.category for instance in found[1:]] == [found[-1].category] == [second.category] == ["date"]
    assert len(model.predict(PIXELS, score_threshold=0.05)) == 3
    nothing = model.predict(PIXELS, score_threshold=0.95)
    assert (nothing.masks.shape, nothing.boxes.shape, list(nothing)) == ((0, 12, 16), (0, 4), [])


def test_what_is_printed_holds_no_mask(model: LoadedModel) -> None:
    found = model.predict(PIXELS)
    assert repr(found) == "Prediction(2 instances in 16 x 12 pixels: fig 0.90, date 0.60)"
    assert repr(found[0]) == "Instance(fig 0.90, ripeness: ripe 0.80, box 1 2 9 5, mask of 24 of 16 x 12 pixels)"
    assert repr(model) == "LoadedModel('models/x' on cpu, categories: date/fig, ripeness: green/ripe)"


def test_an_image_is_a_path_an_image_or_an_array(model: LoadedModel, tmp_path: Path) -> None:
    Image.new("L", (16, 12)).save(tmp_path / "grey.png")
    for image in (tmp_path / "grey.png", str(tmp_path / "grey.png"), Image.new("CMYK", (16, 12)), PIXELS, PIXELS[::-1]):
        assert model.predict(image).masks.shape == (2, 12, 16)
    with pytest.raises(DatasetError, match=r"none\.png"):
        model.predict(tmp_path / "none.png")
    with pytest.raises(DatasetError, match="floating-point"):
        model.predict(Image.new("F", (4, 4)))


@pytest.mark.parametrize(
    "image",
    [PIXELS.astype(np.float32), PIXELS[..., 0], PIXELS.transpose(2, 0, 1), np.zeros((4, 4, 4), np.uint8),
     np.zeros((0, 4, 3), np.uint8), [[1]], torch.zeros(3, 4, 4), None],
)  # fmt: skip
def test_what_is_no_image_is_refused(model: LoadedModel, image: Any) -> None:
    with pytest.raises(InputError, match=r"allowed: the path of an image file.* or an array \(H, W, 3\)"):
        model.predict(image)


def test_progress_is_a_function_or_what_can_be_entered(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, /, **facts: Any) -> None:
        told.append((done, total))

    def predict_files(*_: object, progress: Any, **__: object) -> SimpleNamespace:
        progress(3, 4, "a.png")
        return SimpleNamespace()

    monkeypatch.setattr("raytune_m2f.predict.predict_files", predict_files)
    model.predict_files(["a"], "p", progress=tell)
    assert told == [(3, 4)]
