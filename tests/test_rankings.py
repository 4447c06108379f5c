"""Rankings and sieves of an exported model, side by side; and a model whose sieve lets nothing through."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from raytune_m2f.api.models import LoadedModel
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.config.fields.model import AnyModel, MaskFormerTest
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.errors import ModelError
from raytune_m2f.export import ExportedModel, export_run, load_export
from raytune_m2f.predict import INSTANCES, evaluate_export
from raytune_m2f.rankings import RankingComparison, Row, variants
from raytune_m2f.storage.files import is_ours
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

RANKINGS = [ranking for ranking in ("main", "sum", "logits", "product") for _ in range(6)]
TEST = "MODEL.MASK_FORMER.TEST"
SIEVES = [
    "none", "CLASS_THRESHOLD 0.1", "SUBCATEGORY_THRESHOLD 0.5", "DROP_NO_OBJECT any", "NMS_THRESHOLD 0.5", "all"
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rankings")
    train_trial(tiny_config, TrialContext(made / "run"))
    export_run(made / "run", made / "model")
    return made / "model"


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedModel:
    return load_export(folder, torch.device("cpu"))


def with_test(exported: ExportedModel, **values: Any) -> ExportedModel:
    config = exported.config.with_values({f"{TEST}.{key}": value for key, value in values.items()})
    return replace(exported, config=config)


@pytest.fixture
def val(tiny_dataset: dict[str, Path]) -> tuple[Path, Path]:
    return tiny_dataset["val_annotations"], tiny_dataset["val_images"]


@pytest.fixture
def cli() -> Iterator[CliRunner]:
    yield CliRunner()
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and np.allclose(list(one.values()), list(other.values()), equal_nan=True)


def test_every_ranking_comes_without_with_each_and_with_all_sieves() -> None:
    found = variants(MaskFormerTest(), heads=True)
    assert [variant.sieve for variant in found] == SIEVES * 4
    assert [variant.test.RANKING for variant in found] == [
        r for r in ("main", "sum", "logits", "product") for _ in "123456"
    ]
    assert found[0].test == MaskFormerTest()
    assert found[6 + 3].test == MaskFormerTest(RANKING="sum", DROP_NO_OBJECT="any")
    keys: dict[str, Any] = {"CLASS_THRESHOLD": 0.1, "SUBCATEGORY_THRESHOLD": 0.5, "NMS_THRESHOLD": 0.5}
    assert found[-1].test == MaskFormerTest(RANKING="product", DROP_NO_OBJECT="any", **keys)


def test_the_configurations_own_values_are_compared() -> None:
    own = MaskFormerTest(RANKING="sum", NMS_THRESHOLD=0.8, DROP_NO_OBJECT="all")
    found = variants(own, heads=True)
    assert [variant.sieve for variant in found[3:5]] == ["DROP_NO_OBJECT all", "NMS_THRESHOLD 0.8"]
    assert found[0].test == MaskFormerTest()


def test_without_heads_there_is_one_ranking_and_no_sieve_of_theirs() -> None:
    found = variants(MaskFormerTest(RANKING="sum"), heads=False)
    assert [variant.sieve for variant in found] == ["none", "CLASS_THRESHOLD 0.1", "NMS_THRESHOLD 0.5", "all"]
    assert {variant.test.RANKING for variant in found} == {"main"}


@pytest.mark.parametrize("own", [{}, {"RANKING": "product", "NMS_THRESHOLD": 0.3}])
def test_a_row_is_what_a_model_configured_so_scores(
    exported: ExportedModel, val: tuple[Path, Path], tmp_path: Path, own: dict[str, Any]
) -> None:
    model = LoadedModel(Path("m"), with_test(exported, **own))
    seen: list[tuple[int, int]] = []

    def tell(done: int, total: int, /, **facts: Any) -> None:
        seen.append((done, total))

    comparison = model.compare_rankings(
        *val,
        output=tmp_path / "scores.json",
        predictions=tmp_path / "predictions.json",
        progress=tell,
    )
    assert seen == [(done, 6) for done in range(1, 7)]  # the network sees an image once
    rows = {(row.ranking, row.sieve): row for row in comparison.rows}
    assert len(rows) == 24
    checked: list[tuple[tuple[str, str], dict[str, Any]]] = [
        (("main", "none"), {}),
        (("sum", "CLASS_THRESHOLD 0.1"), {"RANKING": "sum", "CLASS_THRESHOLD": 0.1}),
        (("logits", "DROP_NO_OBJECT any"), {"RANKING": "logits", "DROP_NO_OBJECT": "any"}),
    ]
    for key, values in checked:
        off = with_test(exported, **{"RANKING": "main", "NMS_THRESHOLD": 1.0} | values)
        evaluator = evaluate_export(off, *val)
        metrics = evaluator.evaluate()
        assert same({name: rows[key].metrics[name] for name in metrics}, metrics)
        assert rows[key].instances == pytest.approx(len(evaluator.results) / 6)
    assert rows["main", "none"].instances == 8 * 3  # queries times categories
    assert rows["main", "NMS_THRESHOLD 0.3" if own else "NMS_THRESHOLD 0.5"].instances <= 8
    # what the model is configured for is evaluated beside them, and is what the files hold
    metrics = model.evaluate(*val, predictions=tmp_path / "alone.json")
    assert same({name: comparison.metrics[name] for name in metrics}, metrics)
    assert (tmp_path / "predictions.json").read_text() == (tmp_path / "alone.json").read_text()
    written = json.loads((tmp_path / "scores.json").read_text())
    assert is_ours(tmp_path / "scores.json")
    assert written["rankings"] == json.loads(json.dumps(comparison.as_dict()))
    assert written["rankings"]["rows"][7]["sieve"] == "CLASS_THRESHOLD 0.1"
    assert (written["rankings"]["max_detections"], written["rankings"]["images"]) == (100, 6)
    assert written["confusion"].keys() == {"color", "texture"}


def row(ranking: str, sieve: str, ap: float, error: float = math.nan) -> Row:
    return Row(ranking, sieve, 3.0, {"segm/AP": ap, "segm/AP_se": error, "segm/AP50": 2 * ap, "a/accuracy": 1.0})


def compared(*rows: Row) -> RankingComparison:
    return RankingComparison({}, rows, ("a",), 6, 100)


def test_the_best_is_named_and_what_is_as_good() -> None:
    rows = [
        row("main", "none", 40, 3),
        row("main", "all", 44.5, 2),
        row("sum", "none", 42.6, 2),
        row("sum", "all", 44.5, 1),
    ]
    comparison = compared(*rows)
    assert comparison.columns == ("segm/AP", "segm/AP_se", "segm/AP50")
    assert comparison.best("segm/AP") is rows[1]
    best, cap = comparison.verdict()
    assert best.startswith(
        "Best segm/AP: 44.50, by RANKING main with sieve all. Its standard error over images is 2.00:"
    )
    assert "2 of the 3 other rows are not further away than that, and such differences mean nothing" in best
    assert cap.startswith("Of an image 100 instances are kept")
    assert len(list(compared(row("main", "none", math.nan)).verdict())) == 1
    assert "standard error" not in next(iter(compared(row("main", "none", 3.0)).verdict()))
    joint = replace(rows[0], metrics=rows[0].metrics | {"segm/AP_joint_a": 1.0, "segm/AP_all": 0.5})
    assert compared(joint).columns == ("segm/AP", "segm/AP_se", "segm/AP50", "segm/AP_joint_a", "segm/AP_all")
    assert [line.split(":")[0] for line in compared(joint).verdict()][:2] == ["Best segm/AP", "Best segm/AP_all"]


def test_the_command_prints_a_table(cli: CliRunner, folder: Path, val: tuple[Path, Path], tmp_path: Path) -> None:
    paths = ["--model", folder, "--annotations", val[0], "--images", val[1]]
    words = [*paths, "--compare-rankings", "--output", tmp_path / "scores.json"]
    for _ in range(2):  # ours is replaced
        done = cli.invoke(app, ["evaluate", *map(str, words)])
        assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("RANKING"))
    assert lines[head].split()[:4] == ["RANKING", "sieve", "segm/AP", "segm/AP_se"]
    table = lines[head + 1 : head + 25]
    assert [line.split()[0] for line in table] == RANKINGS
    assert all(line.split()[-1].replace(".", "").isdigit() for line in table)
    assert lines[head + 25].startswith("Best segm/AP: ")
    assert "maxDets" in lines[head + 26]
    assert "maxDets 100" in lines[0]
    assert len(json.loads((tmp_path / "scores.json").read_text())["rankings"]["rows"]) == 24


def test_a_network_of_detectron2s_has_no_rankings(exported: ExportedModel, val: tuple[Path, Path]) -> None:
    config = AnyModelConfig.model_construct(MODEL=AnyModel(META_ARCHITECTURE="RetinaNet"))
    model = LoadedModel(Path("m"), replace(exported, config=config))
    with pytest.raises(ModelError, match="this model is detectron2's RetinaNet"):
        model.compare_rankings(*val)


def test_fewer_detections_than_instances_are_a_warning(
    exported: ExportedModel, val: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    few = replace(exported, config=exported.config.with_values({"TEST.DETECTIONS_PER_IMAGE": 3}))
    with caplog.at_level(logging.WARNING, logger="raytune_m2f"):
        evaluate_export(exported, *val)
        assert "DETECTIONS_PER_IMAGE" not in caplog.text
        evaluate_export(few, *val)
    assert "val.json: an image has 4 instances, but TEST.DETECTIONS_PER_IMAGE is 3: so many are kept" in caplog.text


# Nothing passes


def test_a_model_that_finds_nothing_predicts_and_is_scored(
    exported: ExportedModel, val: tuple[Path, Path], tmp_path: Path
) -> None:
    model = LoadedModel(Path("m"), with_test(exported, CLASS_THRESHOLD=1.0, NMS_THRESHOLD=0.5, DROP_NO_OBJECT="any"))
    content = model.predict_files([val[1]], tmp_path, score_threshold=0.0)
    assert content["annotations"] == []
    assert json.loads((tmp_path / INSTANCES).read_text()) == content
    with Image.open(tmp_path / "00001.png") as picture:
        assert picture.size >= (64, 64)
    found = model.predict(val[1] / "00001.png", score_threshold=0.0)
    assert (len(found), found.masks.shape, found.subcategories) == (0, (0, 64, 64), {"color": [], "texture": []})
    metrics = model.evaluate(*val, output=tmp_path / "scores.json")
    assert metrics["segm/AP"] == 0
    assert {row.metrics["segm/AP"] for row in model.compare_rankings(*val).rows if row.sieve == "all"} == {0.0}


@pytest.mark.parametrize("tiles", [False, True])
def test_a_training_whose_sieve_drops_all_is_scored(tiny_config: Config, tmp_path: Path, tiles: bool) -> None:
    values = {f"{TEST}.SUBCATEGORY_THRESHOLD": 1.0, f"{TEST}.NMS_THRESHOLD": 0.5}
    values |= {"TEST.TILES.ENABLED": True, "TEST.TILES.SIZE": 32} if tiles else {}
    train_trial(tiny_config.with_values(values), TrialContext(tmp_path))
    assert [report["segm/AP"] for report in read_reports(tmp_path)] == [0.0, 0.0]
