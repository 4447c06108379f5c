"""Fine-tuning from a model of other categories, through the command line: train, export, train on from the export."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import read_reports

HEAD = "sem_seg_head.predictor"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Messages on one line; the command line's log handler is taken back afterwards."""
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 4000)
    yield
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_category(config: Config, folder: Path) -> Config:
    """The same images with the first category alone, a single subcategory head and fewer queries."""
    entries = {}
    for name, entry in config.DATASETS.REGISTER.items():
        content = json.loads(entry.annotations.read_text())
        content["categories"] = content["categories"][:1]
        kept = content["categories"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == kept]
        (folder / f"{name}.json").write_text(json.dumps(content))
        entries[name] = {"annotations": str(folder / f"{name}.json"), "images": str(entry.images)}
    return config.with_values(
        {
            "DATASETS.REGISTER": entries,
            "DATASETS.SUBCATEGORIES": ["color"],
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 5,
            "SOLVER.MAX_ITER": 1,
        }
    )


@pytest.fixture(scope="module")
def exported(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a model that was trained on one category with five queries."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "first.yaml").write_text(one_category(tiny_config, folder).to_yaml())
    trained = run("train", "--config", folder / "first.yaml", "--output", folder / "run")
    assert trained.exit_code == 0, trained.output
    made = run("export", folder / "run", "--skip-verify", "--output", folder / "model")
    assert made.exit_code == 0, made.output
    return folder / "model" / "model.pth"


@pytest.mark.parametrize("queries", [3, 8])
def test_training_goes_on_from_other_categories_and_queries(
    tiny_config: Config, exported: Path, tmp_path: Path, queries: int
) -> None:
    (tmp_path / "second.yaml").write_text(tiny_config.to_yaml())
    result = run(
        *("train", "--config", tmp_path / "second.yaml", "--output", tmp_path / "run"),
        *(f"MODEL.WEIGHTS={exported}", f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES={queries}", "SOLVER.MAX_ITER=1"),
        *("SOLVER.BASE_LR=1e-8", "SOLVER.WEIGHT_DECAY=0"),  # so small that what was loaded can be seen afterwards
    )
    assert result.exit_code == 0, result.output
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{HEAD}.class_embed: 1 class in the file, 3 classes here: it starts fresh" in log
    assert f"{HEAD}.texture_embed: no such head in the file, 3 classes here: it starts fresh" in log
    assert f"{HEAD}.color_embed:" not in log
    assert f"{HEAD}.query_feat.weight: 5 queries in the file, {queries} in the network" in log
    (report,) = read_reports(tmp_path / "run")
    assert report["iteration"] == 1
    theirs = torch.load(exported, weights_only=True)
    theirs = theirs.get("model", theirs)
    ours = checkpoint.load(tmp_path / "run/checkpoints/iter_0000001.pth")["model"]
    kept = min(queries, 5)
    for name, value in ours.items():
        if name.startswith((f"{HEAD}.class_embed", f"{HEAD}.texture_embed")):
            continue
        if name.startswith(f"{HEAD}.query_"):
            value, wanted = value[:kept], theirs[name][:kept]
        else:
            wanted = theirs[name]
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["D2SwinTransformer", "build_mobilenet_v3_backbone", "build_efficientnet_lite_backbone"]
)
def test_another_backbone_trains_from_its_own_checkpoint(tiny_config: Config, tmp_path: Path, name: str) -> None:
    """From scratch, then from what that left: nothing starts fresh, and nothing in the file has no use."""
    values = {
        "MODEL.BACKBONE.NAME": name,
        "MODEL.MOBILENETV3.NORM": "BN",
        "MODEL.EFFICIENTNET_LITE.NORM": "BN",
        "MODEL.SWIN.EMBED_DIM": 16,
        "MODEL.SWIN.DEPTHS": [1, 1, 2, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8],
        "SOLVER.MAX_ITER": 1,
        "TEST.EVAL_PERIOD": 1,
    }
    (tmp_path / "c.yaml").write_text(tiny_config.with_values(values).to_yaml())
    command = ("train", "--config", tmp_path / "c.yaml", "--output")
    first = run(*command, tmp_path / "first")
    assert first.exit_code == 0, first.output
    second = run(*command, tmp_path / "second", f"MODEL.WEIGHTS={tmp_path}/first/checkpoints/best.pth")
    assert second.exit_code == 0, second.output
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "WARNING" not in log


def test_missing_weights_are_refused_before_anything_is_written(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(tiny_config.to_yaml())
    result = run("train", "--config", tmp_path / "c.yaml", "--output", tmp_path / "o", "MODEL.WEIGHTS=/no/w.pth")
    assert result.exit_code == 2
    assert "MODEL.WEIGHTS = '/no/w.pth' is not a file on this machine" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_a_failed_download_is_one_clear_error(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "c.yaml").write_text(tiny_config.to_yaml())
    weights = "MODEL.WEIGHTS=http://127.0.0.1:9/a.pth"
    result = run("train", "--config", tmp_path / "c.yaml", "--output", tmp_path / "o", weights)
    assert result.exit_code == 2
    assert "error: MODEL.WEIGHTS = 'http://127.0.0.1:9/a.pth': cannot be downloaded from" in result.stderr
    assert "Traceback" not in result.output
