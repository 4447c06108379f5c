"""Files as they come from elsewhere: cut short, retyped, encoded anew. A result or our one error, and no changed file.

2,000 cases in all, the same on every run, and small, so that what hangs here would hang anywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_study import new_study, report
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import Categories, generate_shapes, load_coco
from raytune_m2f.errors import ModelError, RaytuneM2FError
from raytune_m2f.storage.text import read_object
from raytune_m2f.study.directory import StudyDirectory, plan_of
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.space import load_space
from raytune_m2f.study.status import study_status
from raytune_m2f.training.reports import append_report, read_reports
from raytune_m2f.training.trial_dir import read_failure, write_failure

pytestmark = pytest.mark.filterwarnings("ignore:::optuna")

ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp037", "utf-7")
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 2**64, -(10**30), 10**300, 0.5, -0.0, 1e300, float("inf"), float("nan"), "",
    "x", "nan", "1e400", "../..", "/etc/passwd", "a.b.c", "[r/g]", "红", "\ud800", "a\0b", "$HOME", "${NOT_SET}",
    "~nobody/x", "https://u:p@h/x", "://", "x" * 3000, [], {}, [1], [[1]], [None], {"": 1}, {"a": {"b": [1]}},
    [1, "1", 1.0], ["a", "a"], " ", {"type": "int"},
]  # fmt: skip
WHOLE = [b"", b" \n", b"null", b"[1]", b"3", b'"text"', b"{}", b"[]", b"\xff\xfe\x00", b"\0" * 20, b"{" * 3000,
         b"[" * 3000 + b"]" * 3000, b"a: &a [*a]", b"- 1\n" * 50, b"version https://git-lfs.github.com/spec/v1\n",
         b"<!DOCTYPE html><html></html>", b"PK\x03\x04", b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}"]  # fmt: skip


def fuzz(cases: int) -> Callable[[Any], Any]:
    """`cases` that are the same on every run; fixtures are read, and each case writes its own file."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    chosen = settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller case of a failure would take minutes to find
        suppress_health_check=checks,
    )
    return lambda test: chosen(given(data=st.data())(test))


def changed(data: st.DataObject, content: bytes) -> bytes:
    """A file after something has happened to it."""
    kind = data.draw(st.sampled_from(["retype"] * 4 + ["bytes", "lines", "cut", "encode", "whole"]))
    if kind == "retype":
        return retyped(data, content)
    if kind == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    if kind == "encode":
        return content.decode("utf-8").encode(data.draw(st.sampled_from(ENCODINGS)), "replace")
    if kind == "whole":
        return data.draw(st.sampled_from(WHOLE))
    if kind == "lines":
        lines = content.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(lines) - 1))
        instead = data.draw(st.sampled_from([[], [lines[at]] * 2, lines[:1], [b"\n"], [b"garbage\n"], [b"[1]\n"]]))
        return b"".join([*lines[:at], *instead, *lines[at + 1 :]])
    at = data.draw(st.integers(0, len(content)))
    return content[:at] + data.draw(st.binary(max_size=6)) + content[at + data.draw(st.integers(0, 6)) :]


def retyped(data: st.DataObject, content: bytes) -> bytes:
    """One value, anywhere, is another, or is gone, or stands under another name; of lines of JSON in one of them."""
    text = content.decode("utf-8")
    try:
        whole: Any = json.loads(text)
        dump: Callable[[Any], Any] = json.dumps
    except ValueError:
        lines = text.splitlines()
        if lines and lines[0].startswith("{"):
            at = data.draw(st.integers(0, len(lines) - 1))
            lines[at] = retyped(data, lines[at].encode()).decode("utf-8", "surrogatepass")
            return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")
        whole, dump = yaml.safe_load(text), yaml.safe_dump
    return str(dump(other(data, whole))).encode("utf-8", "surrogatepass")


def other(data: st.DataObject, value: Any) -> Any:
    """The value with a change in it, or another in its place."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 9)) == 0:
        return data.draw(st.sampled_from(ODD))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    copy: Any = value.copy()
    what = data.draw(st.sampled_from(["in it"] * 6 + ["gone", "renamed"]))
    if what == "in it":
        copy[key] = other(data, copy[key])
        return copy
    moved = copy.pop(key)
    if what == "renamed" and isinstance(copy, dict):
        copy[data.draw(st.sampled_from(["x", "", "a.b", "TYPE", f"{key}S"]))] = moved
    return copy


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read(folder: Path, read_it: Callable[[], Any]) -> None:
    """A result or our error; and every file is what it was."""
    before = files_of(folder)
    with suppress(RaytuneM2FError):
        read_it()
    assert files_of(folder) == before


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return generate_shapes(
        tmp_path_factory.mktemp("shapes"), train_images=2, val_images=1, image_size=48, max_instances=2
    )


@fuzz(500)
def test_annotations(data: st.DataObject, shapes: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_bytes(changed(data, shapes["train_annotations"].read_bytes()))
    read(tmp_path, lambda: load_coco("t", file, shapes["train_images"], ("color", "texture")))


CONFIG = """
_BASE_: base.yaml
ENGINE: native
MODEL:
  META_ARCHITECTURE: MultiTaskMaskFormer
  WEIGHTS: ""
  RESNETS: {DEPTH: 18, NORM: GN, OUT_FEATURES: [res2, res3, res4, res5]}
  MASK_FORMER: {CLASS_WEIGHT: 2.0, NUM_OBJECT_QUERIES: 5}
DATASETS:
  TRAIN: [t]
  TEST: [v]
  SUBCATEGORIES: [ripeness]
  REGISTER:
    t: {annotations: train.json, images: train}
    v: {annotations: $HOME/val.json, images: ~/val}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 1.0e-3, MAX_ITER: 20, STEPS: [10, 15], AMP: {ENABLED: true}}
INPUT: {IMAGE_SIZE: 64, MIN_SCALE: 0.8, MAX_SCALE: 1.2}
TEST: {EVAL_PERIOD: 2}
"""


@fuzz(500)
def test_configurations(data: st.DataObject, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    file = tmp_path / "c.yaml"
    file.write_bytes(changed(data, CONFIG.encode()))
    read(tmp_path, lambda: load_config(file))
    read(tmp_path, lambda: load_config(file, trust=False))


SPACE = """
SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}
MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: {type: int, low: 20, high: 60, step: 20}
SOLVER.LR_SCHEDULER_NAME: {type: categorical, choices: [WarmupPolyLR, WarmupMultiStepLR]}
SOLVER.POLY_LR_POWER: {type: uniform, low: 0.5, high: 1.5, when: {SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR}}
MODEL.MASK_FORMER.CLASS_WEIGHT: {type: share, low: 0.5, high: 10.0}
MODEL.MASK_FORMER.MASK_WEIGHT: {type: share, low: 0.5, high: 10.0}
"""


@fuzz(300)
def test_search_spaces(data: st.DataObject, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(changed(data, SPACE.encode()))
    read(tmp_path, lambda: load_space(file, Config()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyDirectory:
    """With a trial that has ended, one that has failed, and one that a killed driver left."""
    made = new_study(tmp_path_factory.mktemp("fuzz"))
    record = Record(made, StudyPlan.load(made.plan_file))
    for number in range(3):
        record.ask()
        folder = made.trial(number)
        folder.mkdir(parents=True)
        for iteration in (10, 20):
            append_report(folder, {**report(iteration, 30.0 + number), "images": 4})
        if number == 1:
            write_failure(folder, KeyError("no such thing"))
        if number < 2:
            record.settle(number, ended=True)
    return made


def copy_of(study: StudyDirectory, tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(study.root, folder)
    return folder


@pytest.mark.parametrize("name", ["study.yaml", "optuna.journal"])
@fuzz(175)
def test_studies_are_shown(data: st.DataObject, study: StudyDirectory, tmp_path: Path, name: str) -> None:
    folder = copy_of(study, tmp_path)
    (folder / name).write_bytes(changed(data, (folder / name).read_bytes()))
    read(folder, lambda: study_status(folder).to_json())
    read(folder, lambda: plan_of(folder))


@pytest.mark.parametrize("name", ["metrics.jsonl", "failure.json"])
@fuzz(75)
def test_studies_go_on(data: st.DataObject, study: StudyDirectory, tmp_path: Path, name: str) -> None:
    """What the record says of a trial that was left is never a failure that the trial did not have."""
    folder = copy_of(study, tmp_path)
    source = folder / "trials" / ("0002" if name == "metrics.jsonl" else "0001") / name
    file = folder / "trials" / "0002" / name
    file.write_bytes(changed(data, source.read_bytes()))
    read(folder, lambda: (read_reports(file.parent), read_failure(file.parent)))
    made = StudyDirectory.at(folder)
    with suppress(RaytuneM2FError):
        Record(made, StudyPlan.load(made.plan_file)).reconcile()


@pytest.mark.parametrize("name", ["categories.json", "metrics.json"])
@fuzz(50)
def test_stored_objects(data: st.DataObject, shapes: dict[str, Path], tmp_path: Path, name: str) -> None:
    content = json.loads(shapes["train_annotations"].read_bytes())
    stored = {key: content[key] for key in ("categories", "subcategories")} if "cat" in name else report(10, 30.0)
    file = tmp_path / name
    file.write_bytes(changed(data, json.dumps(stored, indent=2).encode()))

    def load() -> Any:
        found = read_object(file, ModelError)
        return Categories.from_dict(found, source=str(file)) if "cat" in name else found

    read(tmp_path, load)


@fuzz(100)
def test_configurations_of_exports(data: st.DataObject, tiny_config: Config, tmp_path: Path) -> None:
    """All keys have values there."""
    file = tmp_path / "config.yaml"
    file.write_bytes(changed(data, tiny_config.to_yaml().encode()))
    read(tmp_path, lambda: load_config(file, trust=False))
