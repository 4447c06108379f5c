"""Label Studio's JSON export: a list of tasks, each with what annotators have drawn and chosen.

Format: https://labelstud.io/guide/task_format and the pages of the tags (https://labelstud.io/tags/). Coordinates are
percent of the image. Results of one `id` speak of one region: its outline, its label, and what was chosen for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.data.images import IMAGE_SUFFIXES
from raytune_m2f.project.dialects.brush import decode_brush
from raytune_m2f.project.dialects.draft import Draft, Notes, Reading
from raytune_m2f.project.dialects.files import spellings
from raytune_m2f.project.dialects.outlines import Shape, ellipse, encode, polygon, united
from raytune_m2f.project.dialects.values import FieldReader, Said, dictionary, listed, number, size_of, word
from raytune_m2f.project.export import Item

SHAPES = ("polygon", "brush", "ellipse", "rectangle")
OTHERS = ("keypoint", "vector", "bitmask", "cuboid")
"""Regions that are left out."""
ANSWERS = ("choices", "taxonomy", "number", "rating", "text", "datetime")
"""Keys of `value` that say something; the field is named by `from_name`."""

PERCENT = (100.0, 100.0)
"""The sides of an image whose size is not given."""

Size = tuple[float, float]


def is_label_studio(content: object) -> bool:
    """Whether a JSON file is of this form."""
    return bool(_tasks(content))


def read_label_studio(path: Path, content: object) -> Reading:
    """Read a file whose content `is_label_studio`."""
    notes = Notes()
    fields = FieldReader(notes)
    read = []
    for task in _tasks(content):
        name = _image_of(task)
        origin = f"{path.name}, task {word(task.get('id')) or '?'}"
        results = _results(task, notes, origin)
        if results is None:
            notes.add("tasks that nobody has annotated are left out", origin)
        elif not name:
            notes.add("tasks without an image are left out", origin)
        else:
            read.append((task, name, *_regions(results, fields, notes, origin)))
    drafts = []
    for task, name, items, about, size in read:
        done = tuple(Item(i.category, i.segmentation, i.crowd, fields.finish(said), i.origin) for i, said in items)
        reader = FieldReader(Notes())
        columns = {key: value for key, value in dictionary(task.get("data")).items() if value != name}
        more = reader.finish(reader.read(columns, "data")) | fields.finish(about)
        uploaded = word(task.get("file_upload"))
        aliases = (uploaded,) if uploaded else ()
        frame, shares = (size, False) if size is not None else (PERCENT, True)
        drafts.append(Draft(name, done, frame, shares, more, base=path.parent, aliases=aliases))
    names = sorted({item.category for draft in drafts for item in draft.items})
    return Reading("Label Studio", (path,), tuple(names), drafts, notes)


def _tasks(content: object) -> list[dict[str, Any]]:
    tasks = content if isinstance(content, list) else [content]
    return [
        task
        for task in tasks
        if isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(_annotations(task), list)
    ]


def _annotations(task: Mapping[str, Any]) -> Any:
    return task.get("annotations", task.get("completions"))  # before version 1 they were completions


def _image_of(task: Mapping[str, Any]) -> str:
    """The image among the columns of a task: that whose value is named like an image file, else one named so itself."""
    data = dictionary(task.get("data"))
    texts = {key: name for key, value in data.items() if isinstance(value, str) and (name := word(value))}
    for name in texts.values():
        if any(Path(parts[-1]).suffix.lower() in IMAGE_SUFFIXES for parts in spellings(name)):
            return name
    return next((texts[key] for key in ("image", "img", "photo", "picture") if key in texts), "")


def _results(task: Mapping[str, Any], notes: Notes, origin: str) -> list[dict[str, Any]] | None:
    """The results of the annotation that counts: the ground truth, else the newest that was not cancelled."""
    given = [dictionary(entry) for entry in _annotations(task)]
    valid = [
        entry for entry in given if not entry.get("was_cancelled") and not entry.get("skipped") and "result" in entry
    ]
    if len(valid) > 1:
        notes.add("tasks with several annotations: the ground truth is taken, else the newest", origin)
    if not valid:
        return None
    newest = max(
        enumerate(valid),
        key=lambda entry: (entry[1].get("ground_truth") is True, word(entry[1].get("updated_at")), entry[0]),
    )
    return [result for result in listed(newest[1].get("result")) if isinstance(result, dict)]


def _regions(
    results: Sequence[dict[str, Any]], fields: FieldReader, notes: Notes, origin: str
) -> tuple[list[tuple[Item, Said]], Said, Size | None]:
    """The objects, what is said of the whole image, and the image's size."""
    size = next((found for r in results if (found := size_of(r.get("original_width"), r.get("original_height")))), None)
    groups: dict[str, list[dict[str, Any]]] = {}
    for place, result in enumerate(results):
        if "value" in result:  # relations have none
            groups.setdefault(word(result.get("id")) or f"#{place}", []).append(result)
    items, about = [], {}
    for key, group in groups.items():
        drawn = [result for result in group if _kind(result) in (*SHAPES, *OTHERS)]
        said: Said = {}
        for result in group:
            said |= _said(result, fields)
        if not drawn:
            about.update(said)
        elif item := _object(drawn, group, size, said, notes, f"{origin}, region {key}"):
            items.append((item, said))
    return items, about, size


def _object(
    drawn: Sequence[dict[str, Any]],
    group: Sequence[dict[str, Any]],
    size: Size | None,
    said: Said,
    notes: Notes,
    origin: str,
) -> Item | None:
    kinds = {_kind(result) for result in drawn}
    if kinds & set(OTHERS):
        notes.add(
            "regions of kinds that are not read, such as key points and bit masks, are left out",
            f"{origin}: {min(kinds)}",
        )
        return None
    if any(number(result.get("image_rotation")) for result in drawn):
        notes.add("regions that were drawn on a rotated view of the image are left out", origin)
        return None
    answers = [(result, names) for result in group if (names := list(_labels(result)))]
    if not answers:
        notes.add("regions without a label are left out", origin)
        return None
    (_, names), *others = answers
    if len(names) > 1:
        notes.add(
            "regions with several labels of one kind have no single category, and are left out",
            f"{origin}: {', '.join(names)}",
        )
        return None
    for result, more in others:
        if more != names:
            said[word(result.get("from_name")) or "labels"] = tuple(more) if len(more) > 1 else more[0]
    shapes = [shape for result in drawn if (shape := _shape(result, size, notes, origin)) is not None]
    return Item(names[0], united(shapes, size) if shapes else None, False, {}, origin)


def _kind(result: Mapping[str, Any]) -> str:
    kind = word(result.get("type")).casefold().removesuffix("labels")
    return "brush" if kind == "magicwand" else kind


def _labels(result: Mapping[str, Any]) -> Iterator[str]:
    """The labels that a result gives its region."""
    for key, names in dictionary(result.get("value")).items():
        if key.endswith("labels"):
            yield from (name for value in listed(names) if (name := word(value)))


def _said(result: Mapping[str, Any], fields: FieldReader) -> Said:
    name, value = word(result.get("from_name")), dictionary(result.get("value"))
    said: Said = {}
    for key in ANSWERS:
        if key in value and name:
            answer = value[key]
            if key == "taxonomy":  # each choice is the path to it
                answer = ["/".join(map(word, path)) if isinstance(path, list) else path for path in listed(answer)]
            said |= fields.read({name: answer})
    if isinstance(meta := result.get("meta"), dict):
        said |= fields.read(meta, "meta")
    return said


def _shape(result: Mapping[str, Any], size: Size | None, notes: Notes, origin: str) -> Shape | None:
    kind, value = _kind(result), dictionary(result.get("value"))
    if kind == "rectangle":
        return None
    shape: Shape | None = None
    x, y = (size[0] / 100, size[1] / 100) if size is not None else (1.0, 1.0)
    if kind == "polygon" and value.get("closed") is not False:
        flat = [number(entry) for point in listed(value.get("points")) for entry in listed(point)]
        outline = polygon(None if n is None else n * (y if place % 2 else x) for place, n in enumerate(flat))
        shape = (outline,) if outline is not None else None
    elif kind == "ellipse":
        given = [number(value.get(key)) for key in ("x", "y", "radiusX", "radiusY")]
        known = [n * s for n, s in zip(given, (x, y, x, y), strict=True) if n is not None]
        degrees = number(value.get("rotation")) or 0.0
        if len(known) == len(given) and (size is not None or not degrees):
            shape = (ellipse(known[0], known[1], known[2], known[3], degrees),)
    elif kind == "brush" and size is not None:
        mask = decode_brush(listed(value.get("rle")), int(size[1]), int(size[0]))
        shape = encode(mask) if mask is not None else None
    if shape is None:
        notes.add("regions that cannot be read count as without mask", origin)
    return shape
