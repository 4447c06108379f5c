"""An export is evaluated again in a fresh process: one that scores otherwise than its trial is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import raytune_m2f as rm
from raytune_m2f import export_check
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.data import load_coco, read_image
from raytune_m2f.errors import ConfigError, DatasetError, InputError, ModelError, VerificationError
from raytune_m2f.evaluation import instances_to_results
from raytune_m2f.export import ExportedModel, export_run
from raytune_m2f.export_check import Check, compared, evaluate_again
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.predict import evaluate_export
from raytune_m2f.progress import nobody
from raytune_m2f.training import checkpoint
from raytune_m2f.training.objective import Objective

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tiny_config: Config, tiny_dataset: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network finds all there is to find: the annotations are what it predicts. Nothing is trained."""
    folder = tmp_path_factory.mktemp("run")
    dataset = load_coco("val", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ("color", "texture"))
    content = tiny_config.to_dict()
    content["DATASETS"]["REGISTER"]["val"]["annotations"] = str(folder / "val.json")
    content["DATASETS"]["REGISTER"]["train"]["annotations"] = str(folder / "gone.json")  # it is not needed
    content["MODEL"]["BACKBONE"]["NAME"] = "build_mobilenet_v3_backbone"
    content["MODEL"]["MOBILENETV3"]["NORM"] = "BN"
    content["TEST"].update(IMS_PER_BATCH=1, DETECTIONS_PER_IMAGE=3)
    config = Config.from_dict(content)
    torch.manual_seed(0)
    network = build_network(config, dataset.categories).eval()
    model = ExportedModel(network, config, dataset.categories, CPU)
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        found = model.predict_encoded(read_image(record.file))
        for result in instances_to_results(found, image_id=record.id, categories=dataset.categories):
            box = result["bbox"]
            annotations.append({**result, "id": len(annotations) + 1, "area": box[2] * box[3], "iscrowd": 0})
    old = json.loads(tiny_dataset["val_annotations"].read_text())
    (folder / "val.json").write_text(json.dumps({**old, "annotations": annotations}))
    scores = evaluate_export(model, folder / "val.json", tiny_dataset["val_images"]).evaluate()
    assert scores["segm/AP"] > 50
    checkpoint.save(
        {
            "model": network.state_dict(),
            "config": config.to_dict(),
            "categories": dataset.categories.to_dict(),
            "report": {"iteration": 4, **{n: v for n, v in scores.items() if v == v}, "images": len(dataset.records)},
        },
        folder / "checkpoints" / "best.pth",
    )
    return folder


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[[Callable[[checkpoint.Checkpoint], Any]], Path]:
    """The run with a changed checkpoint."""

    def make(change: Callable[[checkpoint.Checkpoint], Any]) -> Path:
        state = checkpoint.load(run / "checkpoints" / "best.pth")
        change(state)
        checkpoint.save(state, tmp_path / "other" / "checkpoints" / "best.pth")
        return tmp_path / "other"

    return make


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes seconds."""
    monkeypatch.setattr(export_check, "in_fresh_process", evaluate_again)


def other_weights(state: checkpoint.Checkpoint) -> None:
    """The masks of other queries: the rest of the network is as it was."""
    name = "sem_seg_head.predictor.mask_embed.layers.2.weight"
    assert name in state["model"]
    state["model"][name] = -state["model"][name]


def test_an_export_is_verified_in_a_fresh_process_and_its_card_says_so(run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, /, **facts: Any) -> None:
        told.append((done, total))

    rm.export_model(run, tmp_path / "model", progress=tell)
    assert told == [(i, 6) for i in range(1, 7)]
    card = (tmp_path / "model" / "README.md").read_text()
    report = json.loads((tmp_path / "model" / "metrics.json").read_text())
    both = f"segm/AP {report['segm/AP']:.2f} (reported: {report['segm/AP']:.2f}), segm/AP_all"
    assert "**Verified**: the weights were loaded again in a fresh process and evaluated on the 6 test" in card
    assert both in card
    assert "| metric | % | 95 % interval | annotations |" in card
    assert "### Subcategory color: " in card
    assert f"| color/accuracy | {report['color/accuracy']:.2f} |" in card


def test_a_tampered_checkpoint_is_refused_and_leaves_nothing(
    changed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 4000)
    tampered, output = changed(other_weights), tmp_path / "model"
    refused = CliRunner().invoke(app, ["-q", "export", str(tampered), "--output", str(output)])
    assert refused.exit_code == VerificationError.exit_code == 1
    assert isinstance(refused.exception, SystemExit)
    assert refused.stdout == ""
    assert f"error: the weights of {tampered}/checkpoints/best.pth do not score what their trial" in refused.stderr
    assert "segm/AP" in refused.stderr
    assert "--skip-verify" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_was_not_verified_says_so(changed: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(changed(other_weights)), "--output", str(output), "--skip-verify"])
    assert done.exit_code == 0, done.output
    assert "nobody evaluates the export again (--skip-verify)" in done.stderr
    card = (output / "README.md").read_text()
    assert "**Not verified** (`--skip-verify`)" in card
    assert "**Verified**" not in card


@pytest.mark.usefixtures("in_this_process")
def test_an_earlier_export_stays_where_another_is_refused(
    run: Path, changed: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "model"
    rm.export_model(run, output, progress=nobody)
    (output / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(VerificationError, match=r"segm/AP \d.*instead of \d"):
        rm.export_model(changed(other_weights), output, progress=nobody)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize(("more", "accepted"), [(0.05, True), (-0.05, True), (0.2, False), (-0.2, False)])
def test_a_tenth_is_the_limit(monkeypatch: pytest.MonkeyPatch, more: float, accepted: bool) -> None:
    scores = {"metrics": {"segm/AP": 50.0 + more}, "images": 6}
    monkeypatch.setattr(export_check, "in_fresh_process", lambda *_, **__: scores)
    check = Check((), {}, reasons=lambda: ["the data have changed"])
    report = {"iteration": 4, "segm/AP": 50.0}
    if accepted:
        assert check(Path(), report, "x") == (scores, {"segm/AP": (50.0, 50.0 + more)})
        return
    with pytest.raises(VerificationError, match=r"(?s)segm/AP (50|49)\.\d0 instead of 50\.00.*the data have changed"):
        check(Path(), report, "x")
    with pytest.raises(VerificationError, match="no metric that an evaluation gives"):
        check(Path(), {"iteration": 4}, "x")


def test_a_record_that_knows_another_score_is_believed(run: Path, tmp_path: Path) -> None:
    check = Check((Objective.parse("segm/AP"),), {4: 12.0})
    with pytest.raises(VerificationError, match=r"best\.pth says that it had segm/AP \d.* record of its study 12\.00"):
        export_run(run, tmp_path / "model", verify=check)
    assert not (tmp_path / "model").exists()


def test_what_is_compared() -> None:
    report = {"segm/AP": 10.0, "segm/AP_all": 5.0, "color/accuracy": 80.0, "latency_ms": 3.0, "segm/AP50": 20.0}
    metrics = {"segm/AP": 10.5, "segm/AP_all": None, "color/accuracy": 81.0, "segm/AP50": 21.0, "segm/AR": 1.0}
    found = compared(report, metrics, [Objective.parse("color/accuracy - 0.1*latency_ms")])
    assert list(found) == ["color/accuracy", "segm/AP", "segm/AP_all"]
    assert found["color/accuracy"] == (80.0, 81.0)
    assert found["segm/AP_all"][1] != found["segm/AP_all"][1], "what is lost is NaN, which is near nothing"
    assert list(compared({"bbox/AP": 1.0}, {"bbox/AP": 1.0}, [])) == ["bbox/AP"]


def test_two_files_of_different_weights_are_refused(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path)
    state = checkpoint.load(tmp_path / "model.pth")
    other_weights(state)
    checkpoint.save(state, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"model\.safetensors and model\.pth of .* hold different weights"):
        evaluate_again(tmp_path, 4, trust=False, progress=nobody)


def test_a_test_set_that_is_gone_or_has_other_labels_is_an_error(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path)
    content = json.loads((run / "val.json").read_text())
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(str(run / "val.json"), str(tmp_path / "mine.json")))
    with pytest.raises(DatasetError, match=r"mine\.json"):
        evaluate_again(tmp_path, 4, trust=False, progress=nobody)
    content["categories"][0]["name"] = "hexagon"
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="other categories"):
        evaluate_again(tmp_path, 4, trust=False, progress=nobody)


def test_python_files_run_with_trust_alone(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("IMPORT: []", "IMPORT: [/some/where.py]"))
    with pytest.raises(ConfigError, match="--trust"):
        evaluate_again(tmp_path, 4, trust=False, progress=nobody)


@pytest.mark.parametrize(
    ("says", "kind", "message"),
    [
        ('echo \'{"error": "no val.json", "input": true}\'', InputError, r"no val\.json\nBring the test set back"),
        ('echo \'{"error": "bad luck", "input": false}\'', VerificationError, "bad luck"),
        ('echo \'{"done": 1, "total": 2}\'; echo killed >&2; exit 7', VerificationError, "exit code 7.*killed"),
        ("kill -9 $$", VerificationError, "exit code -9.*want of memory"),
    ],
)
def test_a_process_that_fails_is_one_error_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, kind: type[Exception], message: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{says}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(kind, match=f"(?s){message}.*--skip-verify"):
        export_check.in_fresh_process(tmp_path, 4, trust=False, progress=nobody)
