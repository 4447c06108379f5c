"""Label Studio: https://labelstud.io/guide/task_format, and the pages of its tags: https://labelstud.io/tags/polygonlabels,
.../brushlabels, .../ellipselabels, .../choices, .../taxonomy. The brush: https://www.npmjs.com/package/@thi.ng/rle-pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_cases import brush
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_project_read import mask_of

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.dialects.brush import decode_brush
from raytune_m2f.project.export import Export

Result = dict[str, Any]
SIZE = {"original_width": 40, "original_height": 20, "image_rotation": 0}


def result(kind: str, region: str = "r", name: str = "label", **value: Any) -> Result:
    return {"id": region, "from_name": name, "to_name": "image", "type": kind, "value": value} | SIZE


def outline(region: str = "r", label: str = "fig") -> Result:
    return result("polygonlabels", region, points=[[25, 50], [75, 50], [75, 100]], closed=True, polygonlabels=[label])


def read(folder: Path, *results: Result, data: dict[str, Any] | None = None, **task: Any) -> Export:
    """An export of one task, whose image has 40 x 20 pixels."""
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    content = {"id": 5, "data": data or {"image": "a.png"}, "annotations": [{"result": list(results)}]}
    (folder / "project.json").write_text(json.dumps([content | task]))
    return read_export([folder / "project.json"], [folder])


def test_polygons_are_percent_of_the_image(tmp_path: Path) -> None:
    (item,) = read(tmp_path, outline()).items
    assert item.segmentation == ((10.0, 10.0, 30.0, 10.0, 30.0, 20.0),)
    assert item.origin == "project.json, task 5, region r"


def test_an_export_that_does_not_say_the_size(tmp_path: Path) -> None:
    without = {key: value for key, value in outline().items() if key not in SIZE}
    (item,) = read(tmp_path, without).items
    assert item.segmentation == ((10.0, 10.0, 30.0, 10.0, 30.0, 20.0),)


def test_answers_for_a_region_are_its_fields(tmp_path: Path) -> None:
    export = read(
        tmp_path,
        outline("r"),
        result("choices", "r", "ripeness", choices=["ripe"]),
        result("choices", "r", "faults", choices=["bruised", "wet"]),
        result("number", "r", "seeds", number=3),
        result("rating", "r", "quality", rating=4),
        result("taxonomy", "r", "kind", taxonomy=[["fruit", "fig"]]),
        result("textarea", "r", "about", text=["sweet"]),
        outline("s"),
        result("choices", "s", "faults", choices=["wet"]),
        result("choices", "t", "light", choices=["dark"]),
        {"type": "relation", "from_id": "r", "to_id": "s"},
    )
    first, second = export.items
    assert first.fields == {
        "ripeness": "ripe", "faults.bruised": True, "faults.wet": True, "seeds": 3, "quality": 4, "kind": "fruit/fig",
        "about": "sweet",
    }  # fmt: skip
    assert second.fields == {"faults.bruised": False, "faults.wet": True}
    assert dict(export.pictures[0].fields) == {"light": "dark"}


def test_labels_apart_from_the_outline(tmp_path: Path) -> None:
    """<Labels> with <Polygon>: two results of one region; a second set of labels says more of it."""
    points = [[25, 50], [75, 50], [75, 100]]
    more = result("labels", "r", "state", labels=["ripe"])
    export = read(tmp_path, result("polygon", points=points), result("labels", labels=["fig"]), more)
    (item,) = export.items
    assert (item.category, dict(item.fields)) == ("fig", {"state": "ripe"})


def test_regions_that_cannot_be_read_rightly(tmp_path: Path) -> None:
    several = outline("b") | {"value": outline()["value"] | {"polygonlabels": ["fig", "date"]}}
    nothing = outline("c") | {"value": outline()["value"] | {"polygonlabels": []}}
    export = read(
        tmp_path,
        outline("a"),
        several,
        nothing,
        outline("d") | {"image_rotation": 90},
        result("keypointlabels", "e", x=1, y=2, keypointlabels=["fig"]),
        result("rectanglelabels", "f", x=1, y=2, width=30, height=40, rotation=0, rectanglelabels=["fig"]),
        result("brushlabels", "g", format="rle", rle=[1, 2, 3], brushlabels=["fig"]),
    )
    assert [item.segmentation is None for item in export.items] == [False, True, True]
    assert [note.partition(" (")[0] for note in export.notes] == [
        "regions with several labels of one kind have no single category, and are left out: 1",
        "regions without a label are left out: 1",
        "regions that were drawn on a rotated view of the image are left out: 1",
        "regions of kinds that are not read, such as key points and bit masks, are left out: 1",
        "regions that cannot be read count as without mask: 1",
    ]


def test_which_annotation_counts(tmp_path: Path) -> None:
    def annotation(label: str, **more: Any) -> dict[str, Any]:
        return {"result": [outline(label=label)], **more}

    given = [
        annotation("first", updated_at="2024-01-01"),
        annotation("newest", updated_at="2024-03-01"),
        annotation("older", updated_at="2024-02-01"),
        annotation("cancelled", updated_at="2024-04-01", was_cancelled=True),
    ]
    export = read(tmp_path, annotations=given, predictions=[annotation("guess")])
    assert export.categories == ("newest",)
    assert "several annotations" in export.notes[0]
    given[0]["ground_truth"] = True
    assert read(tmp_path, annotations=given).categories == ("first",)


def test_tasks_that_nobody_annotated_are_left_out(tmp_path: Path) -> None:
    empty = {"id": 6, "data": {"image": "b.png"}, "annotations": []}
    nothing = {"id": 7, "data": {"image": "a.png"}, "annotations": [{"result": []}]}
    read(tmp_path, outline())
    (task,) = json.loads((tmp_path / "project.json").read_text())
    (tmp_path / "project.json").write_text(json.dumps([task, empty, nothing]))
    export = read_export([tmp_path / "project.json"], [tmp_path])
    assert [len(picture.items) for picture in export.pictures] == [1, 0]
    assert "tasks that nobody has annotated are left out: 1 (project.json, task 6)" in export.notes


def test_predictions_alone_are_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lists no image"):
        read(tmp_path, annotations=[], predictions=[{"result": [outline()]}])


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/0a1b2c3d-a.png", "/data/local-files/?d=fruit/a.png", "s3://bucket/fruit/a.png",
        "https://example.org/fruit/a.png?token=x%2Fy", "/data/local-files/?d=fruit%5Ca.png", "/data/upload/a.PNG",
    ],
)  # fmt: skip
def test_addresses_of_images(address: str, tmp_path: Path) -> None:
    (tmp_path / "fruit").mkdir()
    export = read(tmp_path, outline(), data={"weight": 3, "image": address})
    assert export.pictures[0].file == tmp_path / "a.png"
    assert dict(export.pictures[0].fields) == {"data.weight": 3}


def test_ellipses_may_be_turned(tmp_path: Path) -> None:
    place: dict[str, Any] = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90}
    export = read(tmp_path, result("ellipselabels", ellipselabels=["fig"], **place))
    drawn = mask_of(next(export.items), export.pictures[0])
    assert [int(np.ptp(np.flatnonzero(drawn.any(axis)))) for axis in (1, 0)] == [15, 3]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_the_brush_says_alpha(height: int, width: int, seed: int, shaded: bool) -> None:
    """Any RGBA picture, with colours that differ from alpha: runs and single values."""
    rng = np.random.default_rng(seed)
    picture = np.repeat(rng.integers(0, 2, (height, width, 1)) * 255, 4, axis=2).astype(np.uint8)
    if shaded:
        picture[..., :3] = rng.integers(0, 256, (height, width, 3))
    mask = decode_brush(brush(picture.ravel()), height, width)
    assert mask is not None
    assert (mask == (picture[..., 3] > 0)).all()


def test_a_large_brush(tmp_path: Path) -> None:
    picture = np.zeros((600, 800, 4), np.uint8)
    picture[100:500, 50:700] = 255
    mask = decode_brush(brush(picture.ravel()), 600, 800)
    assert mask is not None
    assert (mask == (picture[..., 3] > 0)).all()
    assert decode_brush(brush(picture.ravel()), 800, 800) is None
    assert decode_brush(brush(picture.ravel())[:-20], 600, 800) is None
