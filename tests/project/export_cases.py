"""The same six drawn shapes, with two attributes, as the export of every tool: small files to read, to `init` from.

    annotations, images = write("cvat", folder)

The forms are those that the tools document; the page is named beside each writer. An image shows a disc, a ring (it
has a hole), a square, an L, a disc in two parts and an oval ring. Each has a colour, and is damaged or not.
"""

from __future__ import annotations

import base64
import io
import json
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_utils

from raytune_m2f.data.masks import decode, to_rle

WIDTH, HEIGHT = 160, 120
CATEGORIES = ("disc", "ring", "block")
COLORS = {"red": (200, 50, 40), "green": (40, 160, 60), "blue": (50, 70, 200)}
KINDS = ("disc", "ring", "square", "ell", "halves", "oval")
CATEGORY = {"disc": "disc", "ring": "ring", "square": "block", "ell": "block", "halves": "disc", "oval": "ring"}

Polygon = list[tuple[float, float]]
Mask = npt.NDArray[np.bool_]
Paths = tuple[list[Path], list[Path]]


@dataclass(frozen=True)
class Drawn:
    """One object: its outlines and its holes in pixels, and what is said of it."""

    kind: str
    outlines: list[Polygon]
    holes: list[Polygon]
    color: str
    damaged: bool

    @property
    def category(self) -> str:
        return CATEGORY[self.kind]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        points = np.array([point for outline in self.outlines for point in outline])
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return left, top, right - left, bottom - top

    def mask(self, *, holes: bool = True) -> Mask:
        """(HEIGHT, WIDTH) bool."""
        mask = np.any([raster(outline) for outline in self.outlines], axis=0)
        for hole in self.holes if holes else ():
            mask &= ~raster(hole)
        return np.asarray(mask, bool)

    def rle(self, *, compressed: bool) -> dict[str, Any]:
        """COCO's run lengths."""
        mask = np.asfortranarray(self.mask(), np.uint8)
        if compressed:
            rle = mask_utils.encode(mask)
            return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        return {"size": [HEIGHT, WIDTH], "counts": runs(mask.ravel(order="F"))}

    def crop(self) -> tuple[int, int, Mask]:
        """Left, top, and the mask inside its own bounds."""
        mask = self.mask()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return int(columns[0]), int(rows[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def raster(polygon: Polygon) -> Mask:
    """(HEIGHT, WIDTH) bool."""
    rle = to_rle((array("d", [value for point in polygon for value in point]),), HEIGHT, WIDTH)
    return np.asarray(decode([rle], HEIGHT, WIDTH)[0], bool)


def runs(values: npt.NDArray[Any]) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, the first of 0."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(values, np.int8), [0]])))
    ends = [*changes.tolist(), *([len(values)] if not len(changes) or changes[-1] != len(values) else [])]
    return np.diff(ends, prepend=0).tolist()


def shapes(number: int) -> list[Drawn]:
    """The six objects of image `number`, from 0; each image has them elsewhere, in other colours."""
    cells = [
        (50 * column + 8 + 3 * (number % 3), 57 * row + 6 + 2 * (number % 2)) for row in range(2) for column in range(3)
    ]
    drawn = []
    for place, kind in enumerate(KINDS):
        x, y = cells[(place + number) % 6]
        color = list(COLORS)[(place + number) % 3]
        drawn.append(Drawn(kind, *outlines(kind, x, y), color=color, damaged=(5 * place + 3 * number) % 4 == 0))
    return drawn


def outlines(kind: str, x: float, y: float) -> tuple[list[Polygon], list[Polygon]]:
    """Outlines and holes of a kind, some 40 pixels wide, with the left upper corner at (x, y)."""
    middle = (x + 20, y + 20)
    match kind:
        case "disc":
            return [oval(middle, 19, 19)], []
        case "ring":
            return [oval(middle, 20, 20)], [oval(middle, 11, 11)]
        case "square":
            return [[(x + 2, y + 2), (x + 38, y + 2), (x + 38, y + 38), (x + 2, y + 38)]], []
        case "ell":
            return [[(x, y), (x + 16, y), (x + 16, y + 24), (x + 38, y + 24), (x + 38, y + 40), (x, y + 40)]], []
        case "halves":
            left = [
                (middle[0] - 4 - 16 * math.sin(a), middle[1] - 18 * math.cos(a)) for a in np.linspace(0, math.pi, 17)
            ]
            right = [
                (middle[0] + 4 + 16 * math.sin(a), middle[1] - 18 * math.cos(a)) for a in np.linspace(0, math.pi, 17)
            ]
            return [left, right], []
    return [oval(middle, 20, 15)], [oval(middle, 12, 7)]


def oval(middle: tuple[float, float], rx: float, ry: float) -> Polygon:
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return [(middle[0] + rx * math.cos(a), middle[1] + ry * math.sin(a)) for a in angles]


def picture(number: int) -> Image.Image:
    """The image, with every object in its colour; damaged ones have dark spots."""
    rng = np.random.default_rng(number)
    canvas = np.full((HEIGHT, WIDTH, 3), 225.0)
    for drawn in shapes(number):
        mask = drawn.mask()
        canvas[mask] = COLORS[drawn.color]
        if drawn.damaged:
            y, x = np.mgrid[:HEIGHT, :WIDTH]
            canvas[mask & (x % 6 < 3) & (y % 6 < 3)] *= 0.3
    return Image.fromarray((canvas + rng.normal(0, 3, canvas.shape)).clip(0, 255).astype(np.uint8))


def save_images(folder: Path, numbers: range, name: Callable[[int], str] = lambda number: f"{number:03d}.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / name(number), quality=95)


def flat(polygon: Polygon) -> list[float]:
    return [round(value, 3) for point in polygon for value in point]


def dump(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# COCO: cocodataset.org/#format-data; what stands where beside it depends on the tool.

Saying = Callable[[Drawn], dict[str, Any]]
SAYINGS: dict[str, Saying] = {
    # docs/own_data.md
    "coco": lambda d: {"color": list(COLORS).index(d.color), "damaged": int(d.damaged)},
    "coco_names": lambda d: {"color": d.color, "damaged": d.damaged},
    # docs.cvat.ai/docs/dataset_management/formats/format-coco: attributes, with "occluded" and "rotation" of CVAT's own
    "coco_cvat": lambda d: {
        "attributes": {"occluded": False, "rotation": 0.0, "color": d.color, "damaged": d.damaged}
    },
    # github.com/facebookresearch/paco/blob/main/docs/PACO_DATASET.md
    "coco_paco": lambda d: {
        "attribute_ids": [list(COLORS).index(d.color), 3 + d.damaged], "dom_color_ids": [], "obj_ann_id": 1,
        "unknown_color": 0, "unknown_state": 0,
    },
    # github.com/fcakyon/labelme2coco and voxel51.com/docs/fiftyone: extra_attrs
    "coco_extra": lambda d: {"extra": {"color": d.color, "damaged": d.damaged}},
}  # fmt: skip
TOP: dict[str, dict[str, Any]] = {
    "coco": {"subcategories": {"color": list(COLORS), "damaged": ["no", "yes"]}},
    "coco_paco": {
        "attributes": [
            {"id": i, "name": name, "supercategory": "ATTR"} for i, name in enumerate([*COLORS, "whole", "damaged"])
        ],
        "attr_type_to_attr_idxs": {"color": [0, 1, 2], "state": [3, 4]},
        "part_categories": [],
    },
}


def coco_content(saying: Saying, numbers: range, name: Callable[[int], str], *, first: int = 1) -> dict[str, Any]:
    """A COCO file; objects with holes are run lengths, compressed on even images."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in numbers:
        images.append({"id": number + 1, "file_name": name(number), "width": WIDTH, "height": HEIGHT})
        for drawn in shapes(number):
            polygons: Any = [flat(outline) for outline in drawn.outlines]
            segmentation = drawn.rle(compressed=number % 2 == 0) if drawn.holes else polygons
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": CATEGORIES.index(drawn.category) + first,
                    "segmentation": segmentation,
                    "area": float(drawn.mask().sum()),
                    "bbox": [round(value, 2) for value in drawn.box],
                    "iscrowd": 0,
                    **saying(drawn),
                }
            )
    categories = [{"id": i + first, "name": n, "supercategory": ""} for i, n in enumerate(CATEGORIES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(dialect: str, folder: Path, count: int) -> Paths:
    save_images(folder / "images", range(count))
    content = coco_content(SAYINGS[dialect], range(count), lambda number: f"{number:03d}.jpg")
    return [dump(folder / "instances.json", content | TOP.get(dialect, {}))], [folder / "images"]


def write_roboflow(dialect: str, folder: Path, count: int) -> Paths:
    """docs.roboflow.com, COCO JSON: a file beside the images of each part; category 0 has no objects; extra.name."""

    def name(number: int) -> str:
        return f"{number:03d}_jpg.rf.{number * 7919:032x}.jpg"

    for part, numbers in (("train", range(count * 2 // 3)), ("valid", range(count * 2 // 3, count))):
        save_images(folder / part, numbers, name)
        content = coco_content(lambda _: {}, numbers, name)
        for image in content["images"]:
            image |= {"license": 1, "date_captured": "2024-01-01T00:00:00+00:00"}
            image["extra"] = {"name": image["file_name"].partition("_jpg.rf.")[0] + ".jpg"}
        for category in content["categories"]:
            category["supercategory"] = "shapes"
        content["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})
        dump(folder / part / "_annotations.coco.json", content)
    return [folder], [folder]


def write_labelme(dialect: str, folder: Path, count: int) -> Paths:
    """github.com/wkentaro/labelme: labelme/_label_file.py and utils/shape.py; a JSON file beside each image."""
    save_images(folder / "labelme", range(count))
    for number in range(count):
        content = {
            "version": "5.5.0",
            "flags": {"blurred": number % 2 == 0},
            "shapes": [shape for drawn in shapes(number) for shape in labelme_shapes(drawn)],
            "imagePath": f"..\\labelme\\{number:03d}.jpg" if number % 2 else f"{number:03d}.jpg",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        dump(folder / "labelme" / f"{number:03d}.json", content)
    return [folder / "labelme"], [folder / "labelme"]


def labelme_shapes(drawn: Drawn) -> Iterator[dict[str, Any]]:
    common: dict[str, Any] = {"label": drawn.category, "flags": {"damaged": drawn.damaged}, "description": drawn.color}
    common |= {"group_id": None, "mask": None}
    x, y, width, height = drawn.box
    match drawn.kind:
        case "disc":
            middle = [x + width / 2, y + height / 2]
            yield common | {"shape_type": "circle", "points": [middle, [middle[0] + width / 2, middle[1]]]}
        case "square":
            yield common | {"shape_type": "rectangle", "points": [[x, y], [x + width, y + height]]}
        case "ring" | "oval":
            left, top, crop = drawn.crop()
            file = io.BytesIO()
            Image.fromarray(crop).save(file, "PNG")
            corners = [[left, top], [left + crop.shape[1] - 1, top + crop.shape[0] - 1]]
            mask = base64.b64encode(file.getvalue()).decode("ascii")
            yield common | {"shape_type": "mask", "points": corners, "mask": mask}
        case _:
            group = 1 if len(drawn.outlines) > 1 else None
            for outline in drawn.outlines:
                yield common | {"shape_type": "polygon", "points": [list(p) for p in outline], "group_id": group}


def write_yolo(dialect: str, folder: Path, count: int) -> Paths:
    """docs.ultralytics.com/datasets/segment: a line an object, in 0 to 1; parts are joined by a bridge; no holes."""
    for part, numbers in (("train", range(count * 2 // 3)), ("val", range(count * 2 // 3, count))):
        save_images(folder / "images" / part, numbers)
        labels = folder / "labels" / part
        labels.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            lines = []
            for drawn in shapes(number):
                outline = drawn.outlines[0]
                for other in drawn.outlines[1:]:
                    outline = [*outline, outline[0], other[0], *other[1:], other[0]]
                values = [f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in outline]
                lines.append(" ".join([str(CATEGORIES.index(drawn.category)), *values]))
            (labels / f"{number:03d}.txt").write_text("\n".join(lines) + "\n")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CATEGORIES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return [folder / "data.yaml"], [folder / "images"]


def write_cvat(dialect: str, folder: Path, count: int) -> Paths:
    """docs.cvat.ai/docs/other/xml_format: CVAT for images 1.1."""
    save_images(folder / "images", range(count))
    attribute = (
        "<attribute><name>{}</name><mutable>False</mutable><input_type>{}</input_type><default_value></default_value>"
        "<values>{}</values></attribute>"
    )
    attributes = attribute.format("color", "select", "\n".join(COLORS)) + attribute.format(
        "damaged", "checkbox", "false"
    )
    labels = "".join(
        f"<label><name>{n}</name><color>#ff0000</color><type>any</type><attributes>{attributes}</attributes></label>"
        for n in CATEGORIES
    )
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
    lines.append(f"<meta><task><id>4</id><name>shapes</name><labels>{labels}</labels></task></meta>")
    for number in range(count):
        lines.append(f'<image id="{number}" name="{number:03d}.jpg" width="{WIDTH}" height="{HEIGHT}">')
        lines += [shape for drawn in shapes(number) for shape in cvat_shapes(drawn)]
        lines.append("</image>")
    path = folder / "annotations.xml"
    path.write_text("\n".join([*lines, "</annotations>"]), encoding="utf-8")
    return [path], [folder / "images"]


def cvat_shapes(drawn: Drawn) -> Iterator[str]:
    x, y, width, height = drawn.box
    inside = f'<attribute name="color">{drawn.color}</attribute>'
    inside += f'<attribute name="damaged">{str(drawn.damaged).lower()}</attribute>'
    common = f'label={quoteattr(drawn.category)} source="manual" occluded="0" z_order="0"'
    if drawn.kind == "disc":
        place = f'cx="{x + width / 2:.2f}" cy="{y + height / 2:.2f}" rx="{width / 2:.2f}" ry="{height / 2:.2f}"'
        yield f"<ellipse {common} {place}>{inside}</ellipse>"
    elif drawn.holes:
        left, top, crop = drawn.crop()
        rle = ", ".join(map(str, runs(crop.ravel())))
        place = f'left="{left}" top="{top}" width="{crop.shape[1]}" height="{crop.shape[0]}"'
        yield f'<mask {common} rle="{rle}" {place}>{inside}</mask>'
    else:
        group = ' group_id="7"' if len(drawn.outlines) > 1 else ""
        for outline in drawn.outlines:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline)
            yield f'<polygon {common} points="{points}"{group}>{inside}</polygon>'


def write_label_studio(dialect: str, folder: Path, count: int) -> Paths:
    """labelstud.io/guide/task_format: a list of tasks; the attributes are choices for each region."""
    save_images(folder / "images", range(count), lambda number: f"{number:08x}-{number:03d}.jpg")
    tasks = []
    for number in range(count):
        result = [entry for i, drawn in enumerate(shapes(number)) for entry in label_studio_results(drawn, f"r{i}")]
        annotation = {"id": number, "was_cancelled": False, "ground_truth": False, "result": result}
        file = f"{number:08x}-{number:03d}.jpg"
        data = {"image": f"/data/upload/3/{file}"}
        predictions = [{"model_version": "1", "result": result[:1]}]
        task = {
            "id": number,
            "data": data,
            "annotations": [annotation],
            "predictions": predictions,
            "file_upload": file,
        }
        tasks.append(task)
    return [dump(folder / "project-3.json", tasks)], [folder / "images"]


def label_studio_results(drawn: Drawn, region: str) -> Iterator[dict[str, Any]]:
    common: dict[str, Any] = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "to_name": "image",
    }
    common["origin"] = "manual"
    x, y, width, height = drawn.box
    if drawn.kind == "disc":
        value: dict[str, Any] = {
            "x": 100 * (x + width / 2) / WIDTH,
            "y": 100 * (y + height / 2) / HEIGHT,
            "rotation": 0,
        }
        value |= {"radiusX": 50 * width / WIDTH, "radiusY": 50 * height / HEIGHT, "ellipselabels": [drawn.category]}
        yield common | {"id": region, "from_name": "oval", "type": "ellipselabels", "value": value}
    elif drawn.holes or len(drawn.outlines) > 1:
        pixels = np.repeat(np.asarray(drawn.mask(), np.uint8).ravel() * 255, 4)
        value = {"format": "rle", "rle": brush(pixels), "brushlabels": [drawn.category]}
        yield common | {"id": region, "from_name": "brush", "type": "brushlabels", "value": value}
    else:
        points = [[100 * px / WIDTH, 100 * py / HEIGHT] for px, py in drawn.outlines[0]]
        value = {"points": points, "closed": True, "polygonlabels": [drawn.category]}
        yield common | {"id": region, "from_name": "label", "type": "polygonlabels", "value": value}
    for name, choice in (("color", drawn.color), ("damaged", "yes" if drawn.damaged else "no")):
        value = {"choices": [choice]}
        yield common | {"id": region, "from_name": name, "type": "choices", "value": value}


def brush(pixels: npt.NDArray[np.uint8]) -> list[int]:
    """The bytes of Label Studio's brush: npmjs.com/package/@thi.ng/rle-pack.

    A header (32 bits: how many values; 5: bits a value - 1; 4 of 4: bits a count - 1), then packets: a bit says whether
    one value repeats, 2 bits choose the size of the count, the count - 1, and the value, or as many values.
    """
    sizes = (3, 4, 8, 16)
    bits = [f"{len(pixels):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in sizes)]
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]]))
    for start, length in zip(starts.tolist(), np.diff(starts, append=len(pixels)).tolist(), strict=True):
        while length:
            part = min(length, 2**16)
            chosen = next(i for i, size in enumerate(sizes) if part <= 2**size)
            repeats = int(part > 4)
            values = f"{pixels[start]:08b}" * (1 if repeats else part)
            bits.append(f"{repeats}{chosen:02b}{part - 1:0{sizes[chosen]}b}{values}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def write_voc(dialect: str, folder: Path, count: int) -> Paths:
    """host.robots.ox.ac.uk/pascal/VOC: a file an image, with boxes; there are no outlines in it."""
    save_images(folder / "images", range(count))
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        objects = []
        for drawn in shapes(number):
            x, y, width, height = (round(value) for value in drawn.box)
            box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            objects.append(f"<object><name>{drawn.category}</name><bndbox>{box}</bndbox></object>")
        text = f"<annotation><filename>{number:03d}.jpg</filename>{size}{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{number:03d}.xml").write_text(text)
    return [folder / "Annotations"], [folder / "images"]


WRITERS: dict[str, Callable[[str, Path, int], Paths]] = {
    **dict.fromkeys(SAYINGS, write_coco),
    "roboflow": write_roboflow,
    "labelme": write_labelme,
    "yolo": write_yolo,
    "cvat": write_cvat,
    "label_studio": write_label_studio,
    "voc": write_voc,
}
DIALECTS = tuple(name for name in WRITERS if name != "voc")
"""All that can be read; `voc` has boxes alone."""
FIELDS: dict[str, Callable[[Drawn], dict[str, str | int | bool]]] = {
    "coco": lambda d: {"color": d.color, "damaged": "yes" if d.damaged else "no"},
    "coco_names": lambda d: {"color": d.color, "damaged": d.damaged},
    "coco_cvat": lambda d: {"attributes.color": d.color, "attributes.damaged": d.damaged},
    "coco_paco": lambda d: {
        "attribute_ids.color": d.color, "attribute_ids.state": "damaged" if d.damaged else "whole"
    },
    "coco_extra": lambda d: {"extra.color": d.color, "extra.damaged": d.damaged},
    "roboflow": lambda d: {},
    "labelme": lambda d: {"description": d.color, "flags.damaged": d.damaged},
    "yolo": lambda d: {},
    "cvat": lambda d: {"attributes.color": d.color, "attributes.damaged": d.damaged},
    "label_studio": lambda d: {"color": d.color, "damaged": "yes" if d.damaged else "no"},
}  # fmt: skip
"""What `Item.fields` says of an object, in each dialect."""
WITHOUT_HOLES = ("yolo",)


def write(dialect: str, folder: Path, count: int = 6) -> Paths:
    """Write `count` images and the export of a tool (a name of `WRITERS`) into a folder.

    Returns:
        What to give as `--annotations` and as `--images`.
    """
    return WRITERS[dialect](dialect, folder, count)
