"""A whole trial in this process: what it writes, and that nothing that happens to it changes the result."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from report_cases import same

from raytune_m2f.config import Config
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import ConfigError, DatasetError, NonFiniteLossError
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import Report, TrialContext, read_reports
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import Run, train_trial


class Listener:
    """Hears the reports of a trial and never stops it."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def __call__(self, report: Report) -> bool:
        self.told.append(report["iteration"])
        return False


@pytest.fixture(scope="module")
def finished(any_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that ran without a break."""
    output = tmp_path_factory.mktemp("finished")
    train_trial(any_config, TrialContext(output))
    return output


def test_a_trial_leaves_what_its_directory_promises(finished: Path) -> None:
    files = sorted(str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file())
    assert files == [
        "checkpoints/best.pth",
        "checkpoints/iter_0000002.pth",
        "checkpoints/iter_0000004.pth",
        "config.yaml",
        "metrics.jsonl",
    ]
    reports = read_reports(finished)
    assert [report["iteration"] for report in reports] == [2, 4]
    for key in ("segm/AP", "segm/AP50", "segm/AP-disc", "loss", "loss_ce", "loss_mask", "loss_dice", "loss_color"):
        assert key in reports[0]
    assert reports[0]["lr"] == reports[0]["effective_lr"] == pytest.approx(1e-3)
    assert (reports[0]["global_batch"], reports[0]["micro_batch"], reports[0]["images"]) == (4, 4, 6)
    assert {"segm/AP_se", "host", "memory_gb", "latency_ms", "seconds"} < reports[0].keys()


def test_going_on_after_a_break_equals_no_break(any_config: Config, finished: Path, tmp_path: Path) -> None:
    train_trial(any_config, TrialContext(tmp_path, report=lambda report: True))  # stopped at its first report
    assert [report["iteration"] for report in read_reports(tmp_path)] == [2]
    listener = Listener()
    train_trial(any_config, TrialContext(tmp_path, report=listener))
    assert listener.told == [2, 4]  # the one before the break is told again
    assert [same(r) for r in read_reports(tmp_path)] == [same(r) for r in read_reports(finished)]
    ours, theirs = (
        checkpoint.load(folder / "checkpoints/iter_0000004.pth")["model"] for folder in (tmp_path, finished)
    )
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_the_size_changes_at_its_iteration_after_a_break_too(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "raytune_m2f")
    train_trial(tiny_config, TrialContext(tmp_path / "one_size", report=lambda report: True))
    assert not any("pixels" in message for message in caplog.messages)
    config = tiny_config.with_values({"INPUT.START.ITERS": 3, "INPUT.START.IMAGE_SIZE": 32})
    train_trial(config, TrialContext(tmp_path / "whole"))
    said = ["images of 32 pixels up to iteration 3 (INPUT.START)", "iteration 3: images of 64 pixels from here on"]
    assert [message for message in caplog.messages if "pixels" in message] == said
    train_trial(config, TrialContext(tmp_path / "broken", report=lambda report: True))
    train_trial(config, TrialContext(tmp_path / "broken"))
    whole, broken = (checkpoint.load(tmp_path / f"{n}/checkpoints/best.pth")["model"] for n in ("whole", "broken"))
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
    assert [same(r) for r in read_reports(tmp_path / "whole")] == [same(r) for r in read_reports(tmp_path / "broken")]


def test_a_finished_trial_reports_once_more(any_config: Config, finished: Path) -> None:
    listener = Listener()
    before = (finished / "metrics.jsonl").read_text()
    train_trial(any_config, TrialContext(finished, report=listener))
    assert listener.told == [4]
    assert (finished / "metrics.jsonl").read_text() == before


def test_a_report_without_its_checkpoint_is_made_again(any_config: Config, finished: Path, tmp_path: Path) -> None:
    """A kill after the report was written, with the newest checkpoint cut short: go on from the one before."""
    train_trial(any_config, TrialContext(tmp_path))
    newest = tmp_path / "checkpoints/iter_0000004.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    listener = Listener()
    train_trial(any_config, TrialContext(tmp_path, report=listener))
    assert listener.told == [2, 4]
    assert [same(r) for r in read_reports(tmp_path)] == [same(r) for r in read_reports(finished)]


def test_micro_batches_do_not_change_what_is_learned(any_config: Config, tmp_path: Path) -> None:
    # Adam's first steps are the sign of the gradient: at a high rate they amplify float noise where it is nearly 0
    config = any_config.with_values({"SOLVER.BASE_LR": 1e-5, "TEST.EVAL_PERIOD": 1}, source="test")
    train_trial(config, TrialContext(tmp_path / "whole"))
    train_trial(config.with_values({"SOLVER.MICRO_BATCH": 1}, source="test"), TrialContext(tmp_path / "small"))
    for small, whole in zip(read_reports(tmp_path / "small"), read_reports(tmp_path / "whole"), strict=True):
        assert (small["micro_batch"], whole["micro_batch"]) == (1, 4)
        assert small["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_evaluations_before_the_last_score_a_subset_which_the_last_supersedes(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([30.0, 40.0, 10.0])
    scored: list[int] = []

    def evaluate(self: CocoEvaluator) -> dict[str, float]:
        scored.append(len(self.dataset.records))
        return {"segm/AP": next(values)}

    monkeypatch.setattr(CocoEvaluator, "evaluate", evaluate)
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 3, "TEST.EVAL_PERIOD": 1, "TEST.SUBSET": 4})
    train_trial(config, TrialContext(tmp_path, report=lambda report: report["iteration"] == 2))
    best = tmp_path / "checkpoints/best.pth"
    assert checkpoint.load(best)["report"]["segm/AP"] == 40.0
    train_trial(config, TrialContext(tmp_path))
    assert [report["images"] for report in read_reports(tmp_path)] == scored == [4, 4, 6]
    assert checkpoint.load(best)["report"]["segm/AP"] == 10.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_training_is_the_same(any_config: Config, tmp_path: Path) -> None:
    config = any_config.with_values({"SOLVER.BASE_LR": 1e-5, "TEST.EVAL_PERIOD": 1}, source="test")
    train_trial(config, TrialContext(tmp_path / "plain"))
    train_trial(config.with_values({"MODEL.COMPILE": True}, source="test"), TrialContext(tmp_path / "compiled"))
    for compiled, plain in zip(read_reports(tmp_path / "compiled"), read_reports(tmp_path / "plain"), strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_fewer_queries_than_instances_train_and_say_so_once(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config.with_values({"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 2}, source="test")
    with caplog.at_level(logging.WARNING, "raytune_m2f"):
        train_trial(config, TrialContext(tmp_path))
    warnings = [record.getMessage() for record in caplog.records if "queries" in record.getMessage()]
    assert len(warnings) == 1
    assert "NUM_OBJECT_QUERIES" in warnings[0]


def test_a_loss_that_is_not_finite_ends_the_trial_by_name(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stepper.backward

    def broken(self: Stepper, *args: Any) -> dict[str, torch.Tensor]:
        return {name: value * float("nan") for name, value in real(self, *args).items()}

    monkeypatch.setattr(Stepper, "backward", broken)
    with pytest.raises(NonFiniteLossError, match=r"iteration 0: the loss is nan.*BASE_LR"):
        train_trial(tiny_config, TrialContext(tmp_path))
    assert read_reports(tmp_path) == []


def _edited(tiny_dataset: dict[str, Path], tmp_path: Path, config: Config, edit: Any) -> Config:
    """The configuration with a changed copy of the training annotations."""
    content = json.loads(tiny_dataset["train_annotations"].read_text())
    edit(content)
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(content))
    changed = config.to_dict()
    changed["DATASETS"]["REGISTER"]["train"]["annotations"] = str(file)
    return Config.from_dict(changed, source="test")


def test_a_label_out_of_range_is_refused_before_training(
    tiny_config: Config, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    def edit(content: Any) -> None:
        content["annotations"][3]["texture"] = 3

    config = _edited(tiny_dataset, tmp_path, tiny_config, edit)
    with pytest.raises(DatasetError) as error:
        train_trial(config, TrialContext(tmp_path / "run"))
    message = str(error.value)
    assert "edited.json" in message
    assert "texture" in message
    assert "3" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_images_without_instances_and_unknown_subcategories_train(
    tiny_config: Config, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    def edit(content: Any) -> None:
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]
        for annotation in content["annotations"][::2]:
            del annotation["color"]

    config = _edited(tiny_dataset, tmp_path, tiny_config, edit)
    config = config.with_values(
        {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "SOLVER.IMS_PER_BATCH": 12}, source="test"
    )
    report = train_trial(config, TrialContext(tmp_path / "run"))
    assert report["iteration"] == 4


def test_a_number_of_classes_that_the_data_does_not_have_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config.with_values({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 80}, source="test")
    with pytest.raises(ConfigError, match=r"NUM_CLASSES = 80.* has 3 categories"):
        train_trial(config, TrialContext(tmp_path))


def test_it_learns(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 16, "TEST.EVAL_PERIOD": 8}, source="test")
    train_trial(config, TrialContext(tmp_path))
    first, last = read_reports(tmp_path)
    assert last["loss"] < 0.95 * first["loss"]  # 0.89 here; another processor rounds to another 0.88 or 0.90


def test_who_follows_is_told_of_every_step_and_of_the_evaluation(tiny_config: Config, tmp_path: Path) -> None:
    told: list[tuple[int, int, dict[str, Any]]] = []

    def progress(done: int, total: int, /, **facts: Any) -> None:
        told.append((done, total, facts))

    train_trial(tiny_config, TrialContext(tmp_path, progress=progress))
    assert {total for _, total, _ in told} == {4}
    assert told[0] == (0, 4, {}), "before the first step, which may take long"
    steps = [(done, sorted(facts)) for done, _, facts in told[1:] if "evaluated" not in facts]
    assert steps == [(1, ["loss"]), (2, ["loss"]), (3, ["loss", "segm/AP"]), (4, ["loss", "segm/AP"])]
    seen = [(done, facts["evaluated"]) for done, _, facts in told if "evaluated" in facts]
    assert seen == [(done, f"{images} images") for done in (2, 4) for images in (2, 4, 6)]


def test_other_ranks_tell_nobody(tiny_config: Config, tmp_path: Path) -> None:
    def progress(done: int, total: int, /, **facts: Any) -> None:
        pytest.fail("only rank 0 tells")

    context = TrialContext(tmp_path, rank=1, progress=progress)
    engine = build_engine(tiny_config)
    run = Run(tiny_config, context, engine, Stepper.build(tiny_config, engine.learner(), context), None)  # type: ignore[arg-type]
    run.introduce()
    run.observe({"loss": 1.0})
