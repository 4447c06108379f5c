"""CVAT for images 1.1: https://docs.cvat.ai/docs/other/xml_format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_project_read import mask_of

from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export

POLYGON = '<polygon label="fig" points="5.00,5.00;25.00,5.00;25.00,25.00" occluded="0" {}>{}</polygon>'
ATTRIBUTE = '<attribute name="{}">{}</attribute>'
META = """<meta><task><labels>
<label><name>fig</name><type>any</type><attributes>
<attribute><name>ripeness</name><input_type>select</input_type><values>green
ripe
true</values></attribute>
<attribute><name>seeds</name><input_type>number</input_type><values>0
9
1</values></attribute>
<attribute><name>wet</name><input_type>checkbox</input_type><values>false</values></attribute>
<attribute><name>about</name><input_type>text</input_type><values></values></attribute>
</attributes></label>
<label><name>date</name><attributes><attribute><name>ripeness</name><input_type>radio</input_type><values>ripe
dry</values></attribute></attributes></label>
<label><name>stem</name><type>points</type></label>
</labels></task></meta>"""


def read(folder: Path, *shapes: str, meta: str = META, image: str = "", after: str = "") -> Export:
    """A file of one image, 40 x 30."""
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    text = (
        f'<annotations>{meta}<image id="0" name="a.png" width="40" height="30" {image}>{"".join(shapes)}</image>{after}'
    )
    (folder / "annotations.xml").write_text(text + "</annotations>")
    return read_export([folder / "annotations.xml"], [folder])


def test_attributes_by_their_kind(tmp_path: Path) -> None:
    said = {"ripeness": "true", "seeds": "3", "wet": "true", "about": "very sweet", "empty": ""}
    shape = POLYGON.format('z_order="2"', "".join(ATTRIBUTE.format(name, value) for name, value in said.items()))
    export = read(tmp_path, shape)
    assert next(export.items).fields == {
        "occluded": False, "attributes.ripeness": "true", "attributes.seeds": 3, "attributes.wet": True,
        "attributes.about": "very sweet", "z_order": 2,
    }  # fmt: skip


def test_labels_and_their_listed_values(tmp_path: Path) -> None:
    export = read(tmp_path, POLYGON.format("", ""))
    assert export.categories == ("fig", "date")
    assert export.classes == {"attributes.ripeness": ("green", "ripe", "true", "dry")}


def test_without_a_label_specification(tmp_path: Path) -> None:
    export = read(tmp_path, POLYGON.format("", ATTRIBUTE.format("wet", "False")), meta="")
    assert export.categories == ("fig",)
    assert next(export.items).fields == {"occluded": False, "attributes.wet": False}


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    mask = '<mask label="fig" occluded="1" rle="0, 4" left="30" top="20" width="2" height="2" {}></mask>'
    export = read(
        tmp_path,
        POLYGON.format('group_id="3"', ATTRIBUTE.format("ripeness", "ripe")),
        mask.format('group_id="3"'),
        POLYGON.format('group_id="0"', ""),
        POLYGON.format('group_id="0"', ""),
    )
    first, *others = export.items
    assert len(others) == 2
    assert first.fields == {"occluded": False, "attributes.ripeness": "ripe"}
    drawn = mask_of(first, export.pictures[0])
    assert drawn[20:22, 30:32].all()
    assert drawn.sum() == pytest.approx(204, abs=15)


def test_masks_are_run_lengths_by_rows(tmp_path: Path) -> None:
    """The example of CVAT's page: 13 x 15 pixels, with what is 0 first."""
    runs = "3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3"
    wanted = np.repeat(np.arange(29) % 2 == 1, [int(run) for run in runs.split(",")]).reshape(15, 13)
    export = read(tmp_path, f'<mask label="fig" rle="{runs}" left="20" top="10" width="13" height="15"/>')
    drawn = mask_of(next(export.items), export.pictures[0])
    assert (drawn[10:25, 20:33] == wanted).all()
    assert drawn.sum() == wanted.sum()


@pytest.mark.parametrize(("left", "top", "area"), [(-1, 0, 12), (38, 0, 8), (0, 28, 8), (0, -3, 4)])
def test_masks_that_reach_beyond_the_image_are_cut(left: int, top: int, area: int, tmp_path: Path) -> None:
    mask = f'<mask label="fig" rle="0, 16" left="{left}" top="{top}" width="4" height="4"/>'
    export = read(tmp_path, mask)
    assert mask_of(next(export.items), export.pictures[0]).sum() == area


def test_ellipses_may_be_turned(tmp_path: Path) -> None:
    export = read(tmp_path, '<ellipse label="fig" cx="20" cy="15" rx="12" ry="4" rotation="90"/>')
    drawn = mask_of(next(export.items), export.pictures[0])
    assert [int(np.ptp(np.flatnonzero(drawn.any(axis)))) for axis in (1, 0)] == [23, 7]


def test_what_has_no_outline_is_counted(tmp_path: Path) -> None:
    box = '<box label="fig" occluded="1" xtl="1" ytl="2" xbr="9" ybr="8"/>'
    wrong = [
        '<mask label="fig" rle="1, 2" left="0" top="0" width="9" height="9"/>',
        '<polygon label="fig" points="1,2;3"/>',
    ]
    export = read(tmp_path, box, '<points label="stem" points="1,2"/>', *wrong, POLYGON.format("", ""), "<spiral/>")
    assert [item.segmentation is None for item in export.items] == [True, True, True, False]
    assert [note.partition(" (")[0] for note in export.notes] == [
        "points, lines, skeletons and cuboids, which have no outline, are left out: 1",
        "shapes that cannot be read, or with too few points, count as without mask: 2",
        "elements that are no shape with a label are left out: 1",
    ]


def test_what_is_said_of_the_image(tmp_path: Path) -> None:
    tag = '<tag label="blurred"><attribute name="how">badly</attribute></tag>'
    export = read(tmp_path, tag, POLYGON.format("", ""), image='subset="Validation" task_id="12"')
    (picture,) = export.pictures
    assert dict(picture.fields) == {
        "subset": "Validation",
        "task_id": "12",
        "tag.blurred": True,
        "attributes.how": "badly",
    }
    assert picture.part == "val"
    assert len(picture.items) == 1


def test_tracks_beside_images_are_counted(tmp_path: Path) -> None:
    assert read(tmp_path, POLYGON.format("", ""), after="<track/>").notes == ("tracks of a video are left out: 1",)
