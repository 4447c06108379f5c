"""Find out what annotation files are, read them, and join several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raytune_m2f.data.records import paused_gc
from raytune_m2f.errors import DatasetError, first_of
from raytune_m2f.project.dialects.coco import is_coco, read_coco
from raytune_m2f.project.dialects.cvat import is_cvat, read_cvat
from raytune_m2f.project.dialects.draft import Reading, part_of
from raytune_m2f.project.dialects.files import ImageFiles
from raytune_m2f.project.dialects.fit import pictures
from raytune_m2f.project.dialects.label_studio import is_label_studio, read_label_studio
from raytune_m2f.project.dialects.labelme import boxes_alone, is_labelme, read_labelme
from raytune_m2f.project.dialects.source import parse_json, parse_xml, parse_yaml, read_bytes, walk
from raytune_m2f.project.dialects.yolo import is_yolo, label_files, read_yolo
from raytune_m2f.project.export import Export, Picture

SUPPORTED = """
  COCO             a JSON file (also of CVAT, Roboflow, Label Studio, FiftyOne; PACO, LVIS), or Roboflow's folder
  labelme          the folder of its JSON files
  YOLO             segmentation: data.yaml, or the folder with labels/
  CVAT             'CVAT for images 1.1': annotations.xml
  Label Studio     its JSON export ('JSON', not 'JSON-MIN')
Of another tool, export as COCO."""
SUFFIXES = {".json": "json", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml"}
SHOWN = 4


@dataclass(frozen=True)
class _Source:
    """A file whose dialect is known, or a folder of YOLO's; `content` is parsed. Without a dialect: passed over."""

    path: Path
    dialect: str
    content: Any = None


@paused_gc()
def read_export(annotations: Sequence[Path], images: Sequence[Path]) -> Export:
    """Read what one or several annotation files of any supported tool say.

    What each file is, is found by its content. Of two, the first is the training part and the second the validation
    part, unless the files themselves say otherwise (folders or files named train, valid, test; data.yaml; CVAT's
    subsets). One file alone has no parts but those that it says. More than two, and the files of a folder, are joined.

    Args:
        annotations: files, or folders of them.
        images: folders of the images, with all folders in them; if none is given, those of the annotations. With as
            many folders as annotation files, a file's images are looked for in its own folder first.

    Raises:
        DatasetError: a file is of no known dialect or cannot be read, no image is found, or there is no mask in it.
    """
    annotations = [Path(os.path.abspath(path)) for path in annotations]
    if not annotations:
        raise DatasetError(f"no annotation file is given. What can be:{SUPPORTED}")
    sources = [_sources(path) for path in annotations]
    beside = [path if os.path.isdir(path) else path.parent for path in annotations]
    files = ImageFiles(
        list(images) or list(dict.fromkeys(beside)),
        [source.path.parent for group in sources for source in group if source.path.is_file()],
    )
    readings: list[Reading] = []
    own_folder: list[Path | None] = []
    parts: list[str | None] = []
    for number, group in enumerate(sources):
        read = list(_read(group, files))
        for source in group:
            if not source.dialect:
                read[0].notes.add("files that are no annotations are passed over", source.path.name)
        readings += read
        own_folder += [files.folders[number] if len(images) == len(sources) > 1 else None] * len(read)
        parts += [("train", "val")[number] if len(sources) == 2 else None] * len(read)
    said = [part_of(reading.files[0]) for reading in readings]
    if len(readings) > 1 and None not in said and len(set(said)) > 1:
        parts = said
    taken: list[Picture] = []
    for reading, folder, part in zip(readings, own_folder, parts, strict=True):
        own = any(draft.part for draft in reading.drafts)
        found = pictures(reading, files, folder, part or part_of(reading.files[0]))
        taken += [picture if own else replace(picture, part=part) for picture in found]
    return _checked(_joined(readings, taken))


def _sources(path: Path) -> list[_Source]:
    """What a file, or what is in a folder, is."""
    if not os.path.exists(path):
        raise DatasetError(f"annotation file {path} does not exist")
    if not os.path.isdir(path):
        if source := _source(path):
            return [source]
        raise DatasetError(f"{path} is no annotation file that can be read{_hint(path)}. What can be:{SUPPORTED}")
    found, others, wrong = [], [], []
    for file in walk(path):
        if file.suffix.lower() in SUFFIXES:
            try:
                source = _source(file)
            except DatasetError as error:
                wrong.append((file, error))
                continue
            found += [source] if source else []
            others += [] if source else [file]
    # A file that cannot be read is an annotation file that is missing, where others of its kind are.
    kind = {source.path.suffix.lower() for source in found}
    for file, problem in wrong:
        if not found or file.suffix.lower() in kind:
            raise problem
    kinds = {source.dialect for source in found}
    if not found and label_files(path):
        return [_Source(path, "yolo")]
    if len(kinds) > 1:
        shown = "; ".join(f"{kind}: {next(s.path for s in found if s.dialect == kind)}" for kind in sorted(kinds))
        raise DatasetError(f"{path} holds annotations of several kinds, name the file or folder that is meant: {shown}")
    if not found:
        seen = f"; looked at {', '.join(first_of([file.name for file in others], SHOWN))}" if others else ""
        raise DatasetError(f"{path} holds no annotation file that can be read{seen}. What can be:{SUPPORTED}")
    instances = [source for source in found if source.path.name.startswith("instances")]
    if kinds == {"coco"} and instances:  # beside captions, keypoints, panoptic, as COCO's own folder has them
        others += [source.path for source in found if source not in instances]
        found = instances
    if kinds == {"coco"} and len(found) > 1:
        parts = [part_of(source.path) for source in found]
        if None in parts or len(set(parts)) < len(parts):
            shown = ", ".join(first_of([source.path.relative_to(path) for source in found], SHOWN))
            raise DatasetError(f"{path} holds {len(found)} COCO files, name those that are meant: {shown}")
    if kinds == {"yolo"} and len(found) > 1:
        raise DatasetError(f"{path} holds {len(found)} data sets of YOLO, name the data.yaml that is meant")
    passed = [file for file in others if file.suffix.lower() in kind]
    return [*found, *(_Source(file, "") for file in passed)]


def _source(path: Path) -> _Source | None:
    """What a file is; None if nothing that is known."""
    content = read_bytes(path)
    start = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind == "json" or (kind is None and start[:1] in (b"{", b"[")):
        parsed = parse_json(content, path)
        known = {"coco": is_coco, "labelme": is_labelme, "label_studio": is_label_studio}
        dialect = next((name for name, check in known.items() if check(parsed)), None)
        if dialect == "labelme" and parsed.get("imageData"):
            parsed["imageData"] = True  # a copy of the image, which need not stay in memory
        return _Source(path, dialect, parsed) if dialect else None
    if kind == "xml" or (kind is None and start[:1] == b"<"):
        root = parse_xml(content, path)
        if is_cvat(root):
            return _Source(path, "cvat", root)
        if root.tag == "annotation" and root.find("object") is not None and root.find("object/polygon") is None:
            raise DatasetError(boxes_alone(path) + ". This is Pascal VOC's form")
        return None
    if kind == "yaml" and is_yolo(parse_yaml(content, path)):
        return _Source(path, "yolo")
    return None


def _hint(path: Path) -> str:
    """What a file that is not read probably is, for the message."""
    content = read_bytes(path)
    if path.suffix.lower() == ".txt":
        return ": of YOLO, give data.yaml or the folder with labels/"
    if content[:1] not in (b"{", b"["):
        return ""
    parsed = parse_json(content, path)
    first = parsed[0] if isinstance(parsed, list) and parsed else parsed
    if isinstance(first, Mapping) and {"image_id", "category_id"} <= set(first):
        return ": it is a list of predictions (COCO's results), which names no images and no categories"
    if isinstance(first, Mapping) and "lead_time" in first:
        return ": it looks like Label Studio's JSON-MIN; export as 'JSON'"
    keys = list(map(str, first)) if isinstance(first, Mapping) else []
    return f": its entries are {', '.join(first_of([key[:40] for key in keys], SHOWN))}" if keys else ""


def _read(sources: Sequence[_Source], files: ImageFiles) -> Iterator[Reading]:
    labelme = {source.path: source.content for source in sources if source.dialect == "labelme"}
    if labelme:
        yield read_labelme(labelme)
    for source in sources:
        content: Any = source.content
        match source.dialect:
            case "coco":
                yield read_coco(source.path, content)
            case "label_studio":
                yield read_label_studio(source.path, content)
            case "cvat":
                yield read_cvat(source.path, content)
            case "yolo":
                yield read_yolo(source.path, files)


def _joined(readings: Sequence[Reading], taken: Sequence[Picture]) -> Export:
    classes: dict[str, tuple[str, ...]] = {}
    for reading in readings:
        for place, names in reading.classes.items():
            classes[place] = tuple(dict.fromkeys([*classes.get(place, ()), *names]))
    several = len(readings) > 1
    first = [reading.files[0] for reading in readings]
    alike = len({file.name for file in first}) < len(first)
    called = ["/".join(file.parts[-2:]) if alike else file.name for file in first]
    return Export(
        dialect=" and ".join(dict.fromkeys(reading.dialect for reading in readings)),
        files=tuple(file for reading in readings for file in reading.files),
        categories=tuple(dict.fromkeys(name for reading in readings for name in reading.categories)),
        pictures=tuple(taken),
        classes=classes,
        notes=tuple(
            f"{name}: {line}" if several else line
            for name, reading in zip(called, readings, strict=True)
            for line in reading.notes.lines()
        ),
    )


def _checked(export: Export) -> Export:
    """The export, if there is anything to learn from.

    Raises:
        DatasetError: it has no object, or no mask.
    """
    items = list(export.items)
    notes = "".join(f"\n  {line}" for line in export.notes)
    if not items:
        raise DatasetError(f"{export.files[0]}: there is no object on any of its {len(export.pictures)} images{notes}")
    if all(item.segmentation is None for item in items):
        raise DatasetError(boxes_alone(export.files[0]) + (f". What was seen:{notes}" if notes else ""))
    return export
