"""The whole way: what is written is what was said, loads, and can be trained on, whatever the export holds."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from made_exports import Said, export, item, picture, pictures_of

from raytune_m2f.config import load_config
from raytune_m2f.data import load_coco
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import InputError
from raytune_m2f.project.export import Export, Item
from raytune_m2f.project.init import Project, init_project
from raytune_m2f.study.space import load_space
from raytune_m2f.training.check import check_experiment


def fruits(folder: Path, count: int = 10, **changed: Any) -> Export:
    """Ten images with an apple and a pear each, labelled with their ripeness, and an id that is no label."""
    said: list[list[Said]] = [
        [
            ("apple", {"attributes.ripeness": "ripe" if n % 2 else "green", "attributes.id": n}),
            ("pear", {"attributes.ripeness": "green" if n % 3 else "unknown", "attributes.id": 100 + n}),
        ]
        for n in range(count)
    ]
    return export(pictures_of(folder, said, **changed), {"attributes.ripeness": ("green", "ripe")})


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_written_is_what_was_said(tmp_path: Path) -> None:
    project = init_project(fruits(tmp_path / "photos"), tmp_path / "project", device="cpu")
    config = load_config(project.config)
    values = {setting.key: setting.value for setting in project.proposal.settings}
    assert {key: config.value(key) for key in values} == values
    load_space(tmp_path / "project/space.yaml", config)
    assert config.DATASETS.SUBCATEGORIES == ("ripeness",)
    assert config.DATASETS.REGISTER["train"].annotations == tmp_path / "project/data/train.json"
    train, val = build_engine(config).summary.train[0], build_engine(config).summary.test
    assert (train.images, train.instances, train.labels["ripeness"][0]) == (8, 16, 14)
    assert {
        part: sum(counts) for part, counts in zip(("train", "val"), zip(*labels(project), strict=True), strict=True)
    } == {
        "train": train.labels["ripeness"][0],
        "val": val.labels["ripeness"][0],
    }
    content = json.loads((tmp_path / "project/data/train.json").read_text())
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, 17))
    assert content["subcategories"] == {"ripeness": ["green", "ripe"]}


def labels(project: Project) -> list[list[int]]:
    """The rows of the table that count labels of the head."""
    return [counts for what, name, counts in project.counts() if what == "ripeness" and name != "(not known)"]


def test_the_table_counts_every_part(tmp_path: Path) -> None:
    project = init_project(fruits(tmp_path / "photos"), tmp_path / "project", device="cpu")
    rows = list(project.counts())
    assert rows[:4] == [
        ("images", "", [8, 2]),
        ("instances", "", [16, 4]),
        ("category", "apple", [8, 2]),
        ("category", "pear", [8, 2]),
    ]
    assert [row[:2] for row in rows[4:]] == [("ripeness", "green"), ("ripeness", "ripe"), ("ripeness", "(not known)")]
    assert sum(sum(counts) for what, _, counts in rows if what == "ripeness") == 20


def test_the_export_is_not_touched_and_twice_is_the_same(tmp_path: Path) -> None:
    made = fruits(tmp_path / "photos")
    before = digests(tmp_path / "photos")
    for _ in range(2):
        init_project(made, tmp_path / "project", device="cpu")
        written = digests(tmp_path / "project")
    init_project(made, tmp_path / "other", device="cpu")
    assert digests(tmp_path / "photos") == before
    assert written == digests(tmp_path / "other")
    assert sorted(written) == ["config.yaml", "data/train.json", "data/val.json", "space.yaml"]


def test_a_changed_configuration_is_kept_and_nothing_is_written(tmp_path: Path) -> None:
    made, output = fruits(tmp_path / "photos"), tmp_path / "project"
    init_project(made, output, device="cpu")
    (output / "config.yaml").write_text((output / "config.yaml").read_text().replace("600", "1200"))
    before = digests(output)
    with pytest.raises(InputError, match=r"config\.yaml would be written over"):
        init_project(made, output, device="cpu", val=0.5)
    assert digests(output) == before


def test_the_project_may_be_moved(tmp_path: Path) -> None:
    init_project(fruits(tmp_path / "photos"), tmp_path / "project", device="cpu")
    (tmp_path / "project").rename(tmp_path / "moved")
    build_engine(load_config(tmp_path / "moved/config.yaml"))
    init_project(fruits(tmp_path / "moved/photos"), tmp_path / "moved", device="cpu")
    (tmp_path / "moved").rename(tmp_path / "again")
    build_engine(load_config(tmp_path / "again/config.yaml"))


def test_parts_of_the_export_and_a_test_file(tmp_path: Path) -> None:
    pictures = [
        picture(tmp_path / "photos", f"{n}.png", [item(0, "apple")], part=part)
        for n, part in enumerate(["train", "train", "val", "test"])
    ]
    project = init_project(export(pictures), tmp_path / "project", device="cpu")
    assert list(project.parts) == ["train", "val", "test"]
    config = load_config(project.config)
    entry = config.DATASETS.REGISTER["test"]
    assert len(load_coco("test", Path(entry.annotations), Path(entry.images)).records) == 1
    assert (config.DATASETS.TRAIN, config.DATASETS.TEST) == (("train",), ("val",))


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "photos", [[("apple", {})]] * 5)
    pictures.append(picture(tmp_path / "photos", "box.png", [item(0, "apple", segmentation=None)]))
    picture(tmp_path / "photos", "unnamed.png", [])
    made = export(pictures, categories=("apple", "quince"), notes=("2 points left out",))
    project = init_project(made, tmp_path / "project", device="cpu")
    assert project.categories == ("apple",)
    assert project.left_out == (
        "2 points left out",
        "1 object left out, a box or a point without a mask: made.json, annotation 0",
        "categories that no object has: quince",
        "1 image file in the same folders, not used",
    )


def test_a_head_that_a_part_has_no_label_of_is_not_trained(tmp_path: Path) -> None:
    said: list[list[Said]] = [[("apple", {"kind": "ab"[n % 2]} if n < 8 else {})] for n in range(10)]
    pictures = pictures_of(tmp_path / "photos", said)
    pictures = [
        picture(tmp_path / "photos", one.file.name, one.items, part="train" if n < 8 else "val")
        for n, one in enumerate(pictures)
    ]
    project = init_project(export(pictures), tmp_path / "project", device="cpu")
    assert [(one.head, one.reason) for one in project.candidates] == [(None, "no object in val has a value")]
    with pytest.raises(InputError, match="the head 'kind' cannot be trained and scored: no object in val"):
        init_project(export(pictures), tmp_path / "other", device="cpu", subcategories=["kind"])
    assert not (tmp_path / "other").exists()


def test_crowds_are_kept_and_not_counted(tmp_path: Path) -> None:
    pictures = [picture(tmp_path / "p", f"{n}.png", [item(0, "a"), item(1, "a", crowd=True)]) for n in range(4)]
    project = init_project(export(pictures), tmp_path / "project", device="cpu")
    assert list(project.counts())[1] == ("instances", "", [3, 1])
    content = json.loads((tmp_path / "project/data/train.json").read_text())
    assert sum(entry["iscrowd"] for entry in content["annotations"]) == 3


def test_the_next_commands_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = init_project(fruits(tmp_path / "photos"), Path("my project's"), device="cpu")
    words = [shlex.split(command) for command in project.commands()]
    assert [line[1] for line in words] == ["doctor", "train", "tune"]
    for line in words:
        assert Path(line[line.index("--config") + 1]).is_file()
    assert words[0][3] == "my project's/config.yaml"


def test_what_is_worth_a_look_is_told(tmp_path: Path) -> None:
    said: list[list[Said]] = [
        [
            ("Apple" if n % 4 == 0 else "apple", {"kind": ("Ripe", "ripe", "green")[n % 3], "fixed": "x"}),
            ("pear", {"fixed": "y"}),
        ]
        for n in range(24)
    ]
    pictures = [
        picture(tmp_path / "photos", f"vid{n // 6}_{n:03d}.png", one.items)
        for n, one in enumerate(pictures_of(tmp_path / "some", said))
    ]
    made = export(pictures, {"kind": ("green", "ripe", "Ripe"), "fixed": ("x", "y")})
    remarks = init_project(made, tmp_path / "project", device="cpu").remarks
    assert remarks[:3] == (
        "the head fixed has little to learn: each category has one value: it says no more than the category",
        "categories that differ in upper case, blanks, - and _ alone, each learnt as its own: 'Apple', 'apple'",
        "classes of kind that differ in upper case, blanks, - and _ alone, each learnt as its own: 'ripe', 'Ripe'",
    )
    assert remarks[3].startswith("names look like frames of 4 sequences (vid0_, vid1_, vid2_")


# Whatever the export


names = st.text(max_size=8)
values = st.one_of(st.booleans(), st.integers(-3, 300), st.floats(), st.sampled_from(["ripe", "green", ""]), names)
places = st.one_of(st.sampled_from(["attributes.ripe", "flags.class", "id", "score", "a.b.c", "mask"]), names)
segmentations = st.one_of(
    st.none(),
    st.lists(st.lists(st.floats(-100, 100), max_size=8).map(tuple), max_size=3).map(tuple),
    st.just({"size": [40, 40], "counts": [100, 50, 1450]}),
    st.just({"size": [40, 40], "counts": "not run lengths"}),
)


@st.composite
def objects(draw: st.DrawFn) -> Item:
    """Any object; most have a sound mask, as else hardly an export would be of use."""
    changed = {"segmentation": draw(segmentations)} if draw(st.integers(0, 5)) == 0 else {}
    fields = draw(st.dictionaries(places, values, max_size=3)) if draw(st.booleans()) else {}
    fields["attributes.ripe"] = draw(values) if draw(st.integers(0, 30)) == 0 else draw(st.booleans())
    category = draw(names) if draw(st.integers(0, 30)) == 0 else draw(st.sampled_from(["apple", "pear"]))
    return item(draw(st.integers(0, 15)), category, fields, crowd=draw(st.integers(0, 9)) == 0, **changed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pictures=st.lists(
        st.tuples(st.lists(objects(), min_size=1, max_size=6), st.sampled_from([None, "train", "val", "test"])),
        max_size=8,
    ),
    parted=st.sampled_from([False, False, True]),
    asked=st.sampled_from([[], [], [], ["none"], ["attributes.ripe"], ["x=ripe"], ["id", "a=a.b.c"]]),
    device=st.sampled_from(["cpu", "gpu"]),
)
def test_whatever_the_export_a_project_that_can_be_trained_on_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, pictures: Any, parted: bool, asked: list[str], device: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    photos = tmp_path_factory.getbasetemp() / "photos"
    made = export(
        [picture(photos, f"{n}.png", items, part=part if parted else None) for n, (items, part) in enumerate(pictures)]
    )
    try:
        project = init_project(made, folder, device=device, subcategories=asked)
    except InputError:
        event("refused")
        assert not list(folder.iterdir())
        return
    event(f"written, {len(project.heads)} heads")
    config = load_config(project.config)
    check_experiment(config, build_engine(config))
    load_space(folder / "space.yaml", config)
    assert tuple(head.name for head in project.heads) == config.DATASETS.SUBCATEGORIES
    rows = [counts for what, _, counts in project.counts() if what == "category"]
    assert [sum(counts) for counts in zip(*rows, strict=True)] == list(project.counts())[1][2]
