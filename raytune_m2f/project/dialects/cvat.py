"""CVAT for images 1.1: an XML file with the labels, their attributes, and the shapes of each image.

Format: https://docs.cvat.ai/docs/other/xml_format. Shapes of one label and one group_id are one object, as in CVAT's
own export to COCO. A mask is run lengths, row by row, within its own bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import PARTS, Draft, Notes, Reading
from raytune_m2f.project.dialects.outlines import MOST_PIXELS, Shape, ellipse, encode, from_runs, paste, polygon, united
from raytune_m2f.project.dialects.values import number, size_of, word
from raytune_m2f.project.export import Item, Value

LISTED = ("select", "radio")
"""Kinds of attributes whose values are listed."""
PICTURES_FIELDS = ("subset", "task_id")


def is_cvat(root: Element) -> bool:
    """Whether an XML file is of this form."""
    return root.tag == "annotations" and (root.find("image") is not None or root.find("track") is not None)


def read_cvat(path: Path, root: Element) -> Reading:
    """Read a file whose root `is_cvat`.

    Raises:
        DatasetError: it is an export of a video.
    """
    if root.find("image") is None:
        raise DatasetError(f"{path} is CVAT's export for videos; export the task as 'CVAT for images 1.1'")
    notes = Notes()
    categories, kinds, classes = _labels(root)
    drafts = [_draft(image, path, kinds, notes) for image in root.iter("image")]
    if (tracks := len(root.findall("track"))) > 0:
        notes.add("tracks of a video are left out", number=tracks)
    used = {item.category: None for draft in drafts for item in draft.items}
    named = tuple(dict.fromkeys([*(name for name in categories if name), *used]))
    return Reading("CVAT for images 1.1", (path,), named, drafts, notes, classes)


def _labels(root: Element) -> tuple[list[str], dict[tuple[str, str], str], dict[str, tuple[str, ...]]]:
    """The names of the labels; the kind of each of their attributes; the values of those that are listed."""
    names: list[str] = []
    kinds: dict[tuple[str, str], str] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for label in root.iterfind("meta//label"):
        name = word(label.findtext("name"))
        if (
            word(label.findtext("type")) in ("points", "polyline", "skeleton", "tag", "cuboid")
            or label.find("parent") is not None
        ):
            continue  # has no area
        names.append(name)
        for attribute in label.iterfind("attributes/attribute"):
            about, kind = word(attribute.findtext("name")), word(attribute.findtext("input_type"))
            kinds[name, about] = kind
            values = [value for line in (attribute.findtext("values") or "").splitlines() if (value := word(line))]
            if kind in LISTED and about and values:
                place = f"attributes.{about}"
                classes[place] = tuple(dict.fromkeys([*classes.get(place, ()), *values]))
    return names, kinds, classes


def _draft(image: Element, path: Path, kinds: dict[tuple[str, str], str], notes: Notes) -> Draft:
    name = word(image.get("name"))
    size = size_of(image.get("width"), image.get("height"))
    groups: dict[object, list[Element]] = {}
    for place, element in enumerate(image):
        group = word(element.get("group_id"))
        groups.setdefault((element.get("label"), group) if group not in ("", "0") else place, []).append(element)
    items = []
    for place, elements in enumerate(groups.values(), start=1):
        items += _object(elements, size, kinds, notes, f"{path.name}, {name}, object {place}")
    fields: dict[str, Value] = {key: value for key in PICTURES_FIELDS if (value := word(image.get(key)))}
    for tag in image.iterfind("tag"):
        fields[f"tag.{word(tag.get('label'))}"] = True
        fields.update(_attributes(tag, kinds))
    part = PARTS.get(word(image.get("subset")).casefold())
    return Draft(name, tuple(items), size, fields=fields, part=part, base=path.parent)


def _object(
    elements: Sequence[Element],
    size: tuple[float, float] | None,
    kinds: dict[tuple[str, str], str],
    notes: Notes,
    origin: str,
) -> list[Item]:
    shapes: list[Shape] = []
    drawn = []
    for element in elements:
        label = word(element.get("label"))
        if element.tag in ("polyline", "points", "skeleton", "cuboid"):
            notes.add(
                "points, lines, skeletons and cuboids, which have no outline, are left out", f"{origin} ({label})"
            )
        elif element.tag in ("box", "polygon", "mask", "ellipse") and label:
            drawn.append(element)
            shape = None if element.tag == "box" else _shape(element, size)
            if shape is not None:
                shapes.append(shape)
            elif element.tag != "box":
                notes.add(
                    "shapes that cannot be read, or with too few points, count as without mask", f"{origin} ({label})"
                )
        elif element.tag != "tag":
            notes.add("elements that are no shape with a label are left out", f"{origin}: <{word(element.tag)}>")
    if not drawn:
        return []
    fields: dict[str, Value] = {}
    for element in drawn:
        fields = {"occluded": element.get("occluded") == "1"} | _attributes(element, kinds) | fields
    if (order := number(drawn[0].get("z_order"))) is not None:
        fields["z_order"] = int(order)
    segmentation = united(shapes, size) if shapes else None
    return [Item(word(drawn[0].get("label")), segmentation, False, fields, origin)]


def _attributes(element: Element, kinds: dict[tuple[str, str], str]) -> dict[str, Value]:
    label = word(element.get("label"))
    found: dict[str, Value] = {}
    for attribute in element.iterfind("attribute"):
        name, text = word(attribute.get("name")), word(attribute.text)
        kind = kinds.get((label, name), "")
        value: Value = text
        if text.casefold() in ("true", "false") and kind not in LISTED:
            value = text.casefold() == "true"
        elif kind == "number" and (amount := number(text)) is not None:
            value = int(amount) if amount.is_integer() else amount
        if name and text:
            found[f"attributes.{name}"] = value
    return found


def _shape(element: Element, size: tuple[float, float] | None) -> Shape | None:
    if element.tag == "polygon":
        points = [value for point in (element.get("points") or "").split(";") for value in point.split(",")]
        outline = polygon(points)
        return (outline,) if outline is not None else None
    names = ("cx", "cy", "rx", "ry") if element.tag == "ellipse" else ("left", "top", "width", "height")
    values = [value for name in names if (value := number(element.get(name))) is not None]
    if len(values) < len(names):
        return None
    if element.tag == "ellipse":
        x, y, rx, ry = values
        return (ellipse(x, y, rx, ry, number(element.get("rotation")) or 0.0),)
    left, top, width, height = (int(value) for value in values)
    counts = [number(count) for count in (element.get("rle") or "").split(",")]
    if size is None or size[0] * size[1] > MOST_PIXELS or min(width, height) < 1:
        return None
    mask = from_runs([int(count) for count in counts if count is not None], height, width)
    return encode(paste(mask, left, top, int(size[1]), int(size[0]))) if mask is not None else None
