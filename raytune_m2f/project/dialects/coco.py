"""COCO instances as tools write them: ids of any kind, what may be missing, and fields in every place.

Format: https://cocodataset.org/#format-data. What is said of an object beside COCO's own keys becomes its fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.coco_labels import Labels
from raytune_m2f.project.dialects.draft import PARTS, Draft, Notes, Reading
from raytune_m2f.project.dialects.files import original_name
from raytune_m2f.project.dialects.outlines import Shape, checked_rle, polygon, united, without_holes
from raytune_m2f.project.dialects.values import FieldReader, Said, dictionary, listed, number, size_of, word
from raytune_m2f.project.export import Item

OWN = frozenset(
    {"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "keypoints", "num_keypoints"}
)
IMAGES_OWN = frozenset({"id", "file_name", "width", "height"})
NAMES = ("file_name", "path", "name", "coco_url", "flickr_url")
"""Where an image's name may stand."""
SPLITS = ("split", "subset")
"""Where an image's part may stand."""
Key = int | str
"""An id."""


def is_coco(content: object) -> bool:
    """Whether a JSON file is of this form."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("images"), list)
        and isinstance(content.get("annotations"), list)
    )


def read_coco(path: Path, content: Mapping[str, Any]) -> Reading:
    """Read a file whose content `is_coco`.

    Raises:
        DatasetError: it lists no categories, or is of the panoptic form.
    """
    notes = Notes()
    categories = _Categories(content, path, notes)
    labels = Labels(content, notes)
    fields = FieldReader(notes)
    images = {
        key: entry
        for entry in content["images"]
        if isinstance(entry, dict) and (key := _key(entry.get("id"))) is not None
    }
    if (without := len(content["images"]) - len(images)) > 0:
        notes.add("images without an id, or with one that another has, are left out", number=without)
    if any("segments_info" in dictionary(entry) for entry in content["annotations"][:1]):
        raise DatasetError(
            f"{path} is of COCO's panoptic form (segments_info, with the masks in PNG files), which is not read. Give "
            "the file of its instances, or export the objects as instance segmentation."
        )
    said: dict[Key, list[tuple[Item, Said]]] = {}
    for entry in content["annotations"]:
        origin = f"{path.name}, annotation {word(dictionary(entry).get('id')) or '?'}"
        image = _key(dictionary(entry).get("image_id"))
        category = categories.names.get(_key(dictionary(entry).get("category_id")))
        if image is None or image not in images:
            notes.add("objects of an image that is not listed are left out", origin)
        elif category is None:
            notes.add("objects of a category that is not listed are left out", origin)
        else:
            known, others = labels.read(entry, origin)
            more = fields.read(others, skip=OWN) | known | categories.said(category, _key(entry["category_id"]))
            shape = _segmentation(entry, images[image], notes, origin)
            item = Item(category, shape, _is_crowd(entry), {}, origin)
            said.setdefault(image, []).append((item, more))
    crowds_are_masks = _crowds_are_masks(content["annotations"], notes)
    drafts = []
    for key, entry in images.items():
        items = tuple(
            Item(
                item.category, item.segmentation, item.crowd and not crowds_are_masks, fields.finish(more), item.origin
            )
            for item, more in said.get(key, ())
        )
        if draft := _draft(entry, items, path, notes):
            drafts.append(draft)
    used = {item.category for draft in drafts for item in draft.items}
    labels.find_elsewhere(item.fields for draft in drafts for item in draft.items)
    return Reading(_dialect(content), (path,), categories.listed(used), drafts, notes, labels.classes)


class _Categories:
    """The categories of a file by id, and what they say of their objects."""

    def __init__(self, content: Mapping[str, Any], path: Path, notes: Notes) -> None:
        self.names: dict[Key | None, str] = {}
        self._above: dict[Key | None, str] = {}
        self._notes = notes
        for entry in listed(content.get("categories")):
            key, name = _key(dictionary(entry).get("id")), word(dictionary(entry).get("name"))
            above = word(dictionary(entry).get("supercategory"))
            if key is None or key in self.names:
                notes.add("categories without an id, or with one that another has, are left out", name)
                continue
            self.names[key] = name or above or f"category {key}"
            self._above[key] = "" if above.casefold() == "none" else above
        if not self.names:
            raise DatasetError(f"{path} has no categories: 'categories' must be a list of {{id, name}}, at least one")
        if (twice := len(self.names) - len(set(self.names.values()))) > 0:
            notes.add("categories of the name of another are one with it", number=twice)
        self._telling = any(above and above != self.names[key] for key, above in self._above.items())
        self._telling &= len({above for above in self._above.values() if above}) > 1

    def said(self, name: str, key: Key | None) -> Said:
        """The supercategory, where these differ and say more than the names."""
        above = self._above.get(key, "")
        return {"category.supercategory": above} if self._telling and above else {}

    def listed(self, used: set[str]) -> tuple[str, ...]:
        """All names in order; without one that only stands above all others, as Roboflow writes it."""
        names = dict.fromkeys(self.names.values())
        for key, name in self.names.items():
            others = [above for other, above in self._above.items() if other != key]
            if name not in used and not self._above[key] and others and set(others) == {name}:
                self._notes.add("categories that only stand above the others are left out", name)
                del names[name]
        return tuple(names)


def _key(value: object) -> Key | None:
    """An id as it is compared: 7, 7.0 and "7" are one; it may have more than 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return int(value) if value == value and abs(value) != float("inf") and value == int(value) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 100:
        return int(value)
    return value


def _draft(entry: Mapping[str, Any], items: Sequence[Item], path: Path, notes: Notes) -> Draft | None:
    name = next((name for key in NAMES if (name := word(entry.get(key)))), "")
    if not name:
        notes.add("images without a file_name are left out", word(entry.get("id")))
        return None
    extra = dictionary(entry.get("extra"))
    reader = FieldReader(Notes())  # lists of an image, such as LVIS's neg_category_ids, are nothing to group by
    fields = reader.finish({k: v for k, v in reader.read(entry, skip=IMAGES_OWN).items() if not isinstance(v, tuple)})
    aliases = tuple(dict.fromkeys(alias for alias in (word(extra.get("name")), original_name(name)) if alias))
    size = size_of(entry.get("width"), entry.get("height"))
    part = next((PARTS[said] for key in SPLITS if (said := word(entry.get(key)).casefold()) in PARTS), None)
    return Draft(name, tuple(items), size, fields=fields, part=part, base=path.parent, aliases=aliases)


def _segmentation(entry: Mapping[str, Any], image: Mapping[str, Any], notes: Notes, origin: str) -> Shape | None:
    """Polygons in any nesting, run lengths, or several of these; None for none, with a note if it is something else."""
    value = entry.get("segmentation")
    if not value or value == [[]]:
        return None
    parts: list[Any] = value if isinstance(value, list) else [value]
    if all(isinstance(part, int | float) for part in parts):  # one polygon, not in a list
        parts = [parts]
    elif all(isinstance(part, list) and len(part) == 2 and not isinstance(part[0], list) for part in parts):  # points
        parts = [[entry for point in parts for entry in point]]
    shapes: list[Shape] = []
    for part in parts:
        if isinstance(part, dict):
            rle = checked_rle(part)
            shapes += [rle] if rle is not None else []
        elif isinstance(part, list):
            outline = polygon([entry for point in part for entry in (point if isinstance(point, list) else [point])])
            shapes += [(outline,)] if outline is not None else []
    if not shapes:
        notes.add(
            "objects whose segmentation cannot be read, or has fewer than three points; they count as without mask",
            origin,
        )
        return None
    size = size_of(image.get("width"), image.get("height"))
    shape = united(shapes, size)
    if not isinstance(shape, dict) and size is not None:
        mask = without_holes(shape, number(entry.get("area")), (int(size[0]), int(size[1])))
        if mask is not None:
            notes.add("objects with an outline inside another, which is a hole as their area says", origin)
            return mask
    return shape


def _is_crowd(entry: Mapping[str, Any]) -> bool:
    return entry.get("iscrowd") is True or bool(number(entry.get("iscrowd")))


def _crowds_are_masks(entries: Sequence[Any], notes: Notes) -> bool:
    """CVAT (by Datumaro) marks as crowd what was drawn as a mask; its files are known by attributes.occluded."""
    crowds = masks = cvat = 0
    for entry in entries:
        entry = dictionary(entry)
        is_crowd, is_mask = _is_crowd(entry), isinstance(entry.get("segmentation"), dict)
        crowds, masks = crowds + is_crowd, masks + is_mask
        if is_crowd and not is_mask:
            return False
        cvat += "occluded" in dictionary(entry.get("attributes"))
    if not crowds or crowds != masks or cvat < len(entries):
        return False
    notes.add(
        "objects that CVAT marks as crowd because they were drawn as masks are single objects here", number=crowds
    )
    return True


def _dialect(content: Mapping[str, Any]) -> str:
    entries = [dictionary(entry) for entry in content["annotations"]]
    info = dictionary(content.get("info"))
    if content.get("subcategories"):
        return "COCO with subcategories"
    if any("attribute_ids" in entry for entry in entries):
        return "COCO with attribute_ids (PACO, LVIS)"
    if "roboflow" in str(info).casefold() or any(
        original_name(word(dictionary(i).get("file_name"))) for i in content["images"]
    ):
        return "COCO (Roboflow)"
    if any("occluded" in dictionary(entry.get("attributes")) for entry in entries):
        return "COCO with attributes (CVAT)"
    if any(dictionary(entry.get("attributes")) for entry in entries):
        return "COCO with attributes"
    if any(dictionary(entry.get("extra")) for entry in entries):
        return "COCO with extra fields"
    return "COCO"
