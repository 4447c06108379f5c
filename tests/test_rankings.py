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
from raytune_m2f.rankings import RankingComparison, Row, compare_rankings, variants
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

RANKINGS = [ranking for ranking in ("main", "sum", "logits", "product") for _ in range(7)]
TEST = "MODEL.MASK_FORMER.TEST"
SIEVES = [
    "none", "CLASS_THRESHOLD 0.1", "SUBCATEGORY_THRESHOLD 0.5", "DROP_NO_OBJECT any", "NMS_THRESHOLD 0.5",
    "NMS_THRESHOLD 0.5, in a category", "all",
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
    assert [variant.test.RANKING for variant in found] == RANKINGS
    assert found[0].test == MaskFormerTest()
    assert found[7 + 3].test == MaskFormerTest(RANKING="sum", DROP_NO_OBJECT="any")
    keys: dict[str, Any] = {"CLASS_THRESHOLD": 0.1, "SUBCATEGORY_THRESHOLD": 0.5, "NMS_THRESHOLD": 0.5}
    assert found[-1].test == MaskFormerTest(RANKING="product", DROP_NO_OBJECT="any", **keys)


def test_the_configurations_own_values_are_compared() -> None:
    own = MaskFormerTest(RANKING="sum", NMS_THRESHOLD=0.8, NMS_CLASS_AGNOSTIC=False, DROP_NO_OBJECT="all")
    found = variants(own, heads=True)
    assert [variant.sieve for variant in found[3:5]] == ["DROP_NO_OBJECT all", "NMS_THRESHOLD 0.8"]
    assert found[0].test == MaskFormerTest()
    assert [variant.test.NMS_CLASS_AGNOSTIC for variant in found[:7]] == [True] * 5 + [False] * 2


def test_without_heads_there_is_one_ranking_and_no_sieve_of_theirs() -> None:
    found = variants(MaskFormerTest(RANKING="sum"), heads=False)
    assert [variant.sieve for variant in found] == [*SIEVES[:2], *SIEVES[4:]]
    assert {variant.test.RANKING for variant in found} == {"main"}


@pytest.mark.parametrize("own", [{}, {"RANKING": "product", "NMS_THRESHOLD": 0.3}])
def test_a_row_is_what_a_model_configured_so_scores(
    exported: ExportedModel, val: tuple[Path, Path], own: dict[str, Any]
) -> None:
    model = with_test(exported, **own)
    seen: list[tuple[int, int]] = []
    evaluator, comparison = compare_rankings(model, *val, progress=lambda done, total, name: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]  # the network sees an image once
    assert (comparison.images, comparison.max_detections, comparison.heads) == (6, 100, ("color", "texture"))
    rows = {(row.ranking, row.sieve): row for row in comparison.rows}
    assert len(rows) == 28
    checked: list[tuple[tuple[str, str], dict[str, Any]]] = [
        (("main", "none"), {}),
        (("sum", "CLASS_THRESHOLD 0.1"), {"RANKING": "sum", "CLASS_THRESHOLD": 0.1}),
        (("logits", "DROP_NO_OBJECT any"), {"RANKING": "logits", "DROP_NO_OBJECT": "any"}),
    ]
    for key, values in checked:
        off = with_test(exported, **{"RANKING": "main", "NMS_THRESHOLD": 1.0} | values)
        alone = evaluate_export(off, *val)
        assert same(rows[key].metrics, alone.evaluate())
        assert rows[key].instances == pytest.approx(len(alone.results) / 6)
    assert rows["main", "none"].instances == 8 * 3  # queries times categories
    assert rows["main", "NMS_THRESHOLD 0.3" if own else "NMS_THRESHOLD 0.5"].instances <= 8
    # what the model is configured for is evaluated beside them, and is what the evaluator holds
    configured = evaluate_export(model, *val)
    assert same(evaluator.evaluation.metrics, configured.evaluate())
    assert evaluator.results == configured.results


def row(ranking: str, sieve: str, ap: float, *drawn: float) -> Row:
    metrics = {"segm/AP": ap, "segm/AP50": 2 * ap, "a/accuracy": 1.0}
    return Row(ranking, sieve, 3.0, metrics, {"segm/AP": np.array(drawn or [ap, ap])})


def compared(*rows: Row) -> RankingComparison:
    return RankingComparison(rows, ("a",), 6, 100)


def test_the_best_is_named_and_what_is_as_good() -> None:
    """Draws move all rows alike: the second is surely better than the first, but not than the third."""
    first = row("main", "none", 40, 30, 40, 50)
    second = row("main", "all", 44.5, 34, 44.5, 55)
    third = row("sum", "none", 44, 35, 44, 53)
    comparison = compared(first, second, third, row("sum", "all", 44.5, 34, 44.5, 55))
    difference = second.over(first, "segm/AP")
    assert difference.value == pytest.approx(4.5)
    assert difference.error == pytest.approx(np.std([4, 4.5, 5], ddof=1))
    assert comparison.best("segm/AP") is second
    best, error, cap = comparison.verdict()
    assert best.startswith("Best segm/AP: 44.50, by RANKING main with sieve all; 2 of the 3 other rows are not surely")
    assert "one that is smaller than what follows +- means nothing" in error
    assert cap.startswith("Of an image 100 instances are kept")
    assert comparison.table()[:3] == [
        ["RANKING", "sieve", "segm/AP", "to the first", "segm/AP50", "instances an image"],
        ["main", "none", "40.00", "", "80.00", "3.0"],
        ["main", "all", "44.50", "+4.50 +- 0.98", "89.00", "3.0"],
    ]
    entry = comparison.as_dict()["rows"][1]
    assert entry["difference"] == {"segm/AP": {"difference": pytest.approx(4.5), "standard_error": pytest.approx(0.5)}}


def test_what_cannot_be_measured_is_blank() -> None:
    comparison = compared(row("main", "none", 3.0), row("main", "all", math.nan, math.nan, math.nan))
    assert comparison.table()[2] == ["main", "all", "", "", "", "3.0"]
    assert comparison.as_dict()["rows"][1]["difference"] == {"segm/AP": {"difference": None, "standard_error": None}}
    assert compared(row("main", "none", math.nan)).best("segm/AP") is None


def test_joint_ap_is_shown_where_there_is_any() -> None:
    plain = row("main", "none", 3.0)
    metrics = plain.metrics | {"segm/AP_joint_a": 1.0, "segm/AP_all": 0.5}
    drawn = plain.drawn | {"segm/AP_all": np.array([0.5, 0.6])}
    comparison = compared(replace(plain, metrics=metrics, drawn=drawn))
    assert comparison.table()[0][5:8] == ["segm/AP_joint_a", "segm/AP_all", "to the first"]
    assert [line.split(":")[0] for line in comparison.verdict()][:2] == ["Best segm/AP", "Best segm/AP_all"]


def test_the_command_prints_a_table(cli: CliRunner, folder: Path, val: tuple[Path, Path], tmp_path: Path) -> None:
    paths = ["--model", folder, "--annotations", val[0], "--images", val[1]]
    words = [*paths, "--compare-rankings", "--output", tmp_path / "scores.json"]
    for _ in range(2):  # ours is replaced
        done = cli.invoke(app, ["evaluate", *map(str, words)])
        assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("RANKING"))
    assert lines[head].split()[:6] == ["RANKING", "sieve", "segm/AP", "to", "the", "first"]
    table = lines[head + 1 : head + 29]
    assert [line.split()[0] for line in table] == RANKINGS
    assert all(line.split()[-1].replace(".", "").isdigit() for line in table)
    assert lines[head + 29].startswith("Best segm/AP: ")
    assert "maxDets" in lines[-1]
    assert "100 detections count" in lines[1]
    assert len(json.loads((tmp_path / "scores.json").read_text())["rankings"]["rows"]) == 28


def test_a_network_of_detectron2s_has_no_rankings(exported: ExportedModel, val: tuple[Path, Path]) -> None:
    config = AnyModelConfig.model_construct(MODEL=AnyModel(META_ARCHITECTURE="RetinaNet"))
    model = LoadedModel(Path("m"), replace(exported, config=config))
    with pytest.raises(ModelError, match="this model is detectron2's RetinaNet"):
        model.evaluate(*val, compare_rankings=True)


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
    rankings = model.evaluate(*val, compare_rankings=True).rankings
    assert rankings is not None
    assert {row.metrics["segm/AP"] for row in rankings.rows if row.sieve == "all"} == {0.0}


@pytest.mark.parametrize("tiles", [False, True])
def test_a_training_whose_sieve_drops_all_is_scored(tiny_config: Config, tmp_path: Path, tiles: bool) -> None:
    values = {f"{TEST}.SUBCATEGORY_THRESHOLD": 1.0, f"{TEST}.NMS_THRESHOLD": 0.5}
    values |= {"TEST.TILES.ENABLED": True, "TEST.TILES.SIZE": 32} if tiles else {}
    train_trial(tiny_config.with_values(values), TrialContext(tmp_path))
    assert [report["segm/AP"] for report in read_reports(tmp_path)] == [0.0, 0.0]
