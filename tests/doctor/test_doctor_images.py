"""Faults of image files, each put into a copy of a sound set, and named; and pictures that are not the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import changed, copied, found, sound_config, the_one
from PIL import ExifTags, Image

from raytune_m2f.config import load_config
from raytune_m2f.data import TrainSample, generate_shapes, load_coco
from raytune_m2f.doctor import images
from raytune_m2f.doctor.images import ALIKE, look_at, same_pictures
from raytune_m2f.doctor.subject import Subject

Dataset = dict[str, Path]
Fault = Callable[[list[Path]], None]


def removed(files: list[Path]) -> None:
    files[0].unlink()


def text(files: list[Path]) -> None:
    files[0].write_text("version https://git-lfs.github.com/spec/v1\n")


def cut_short(files: list[Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-400])


def smaller(files: list[Path]) -> None:
    Image.open(files[0]).resize((60, 60)).save(files[0])


def pages(files: list[Path]) -> None:
    image = Image.open(files[0]).copy()
    image.save(files[0], format="TIFF", save_all=True, append_images=[image, image])


def one_colour(files: list[Path]) -> None:
    Image.new("RGB", (64, 64), (30, 60, 90)).save(files[0])


@pytest.mark.parametrize(
    ("fault", "check", "level", "message"),
    [
        (removed, "data/read", "problem", "1 of the image files are not in"),
        (text, "data/files", "problem", "cannot be read"),
        (smaller, "data/files", "problem", "is 60 x 60 pixels, but the annotation file says 64 x 64"),
        (pages, "data/files", "warning", "1 of 6 images that were inspected have several pages"),
        (cut_short, "data/pixels", "problem", "test: 1 of 6 images that were decoded cannot be read"),
        (one_colour, "data/pixels", "warning", "test: 1 of 6 images that were decoded are of one colour"),
    ],
)
def test_a_fault_is_named(
    tiny_dataset: Dataset, tmp_path: Path, fault: Fault, check: str, level: str, message: str
) -> None:
    dataset = copied(tiny_dataset, tmp_path)
    fault(sorted(dataset["val_images"].iterdir()))
    (finding,) = (one for one in found(sound_config(dataset), "data/") if one.check == check)
    assert finding.level == level
    assert message in finding.figure
    assert finding.remedy


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_size_from_before_the_exif_rotation_is_named(tiny_dataset: Dataset, tmp_path: Path, orientation: int) -> None:
    """A photograph is stored lying and tagged; the annotations were drawn on it as it is stored."""
    dataset = copied(tiny_dataset, tmp_path)
    content = json.loads(dataset["val_annotations"].read_text())
    entry = content["images"][0]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != entry["id"]]
    file = dataset["val_images"] / entry["file_name"]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.open(file).resize((96, 64)).save(file, exif=exif)
    entry.update(width=96, height=64)
    dataset["val_annotations"].write_text(json.dumps(content))
    finding = the_one(sound_config(dataset), "data/files")
    assert finding.level == "problem"
    assert "width and height are exchanged: were they taken before the EXIF rotation?" in finding.figure
    assert "exiftool -Orientation=" in finding.remedy
    entry.update(width=64, height=96)  # as it is seen
    dataset["val_annotations"].write_text(json.dumps(content))
    assert not found(sound_config(dataset), "data/files")


def copies(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def encoded_anew(source: Path, target: Path) -> None:
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    image.resize((image.width // 2, image.height // 2)).resize(image.size).save(target, format="JPEG", quality=60)


@pytest.mark.parametrize(("make", "how"), [(copies, "2 byte for byte"), (encoded_anew, "2 by their look")])
def test_pictures_of_both_sets_are_named(
    data_root: Path, tmp_path: Path, make: Callable[[Path, Path], None], how: str
) -> None:
    source = data_root / "fruits_nuts"
    dataset = {f"{part}_annotations": source / f"annotations_{part}.json" for part in ("train", "val")}
    new = copied(dataset | {f"{part}_images": source / part for part in ("train", "val")}, tmp_path)
    train, content = sorted(new["train_images"].iterdir()), json.loads(new["val_annotations"].read_text())
    for test, same in zip(sorted(new["val_images"].iterdir())[:2], train, strict=False):
        make(same, test)
        with Image.open(same) as image:
            (entry,) = (one for one in content["images"] if one["file_name"] == test.name)
            entry.update(width=image.width, height=image.height)
    new["val_annotations"].write_text(json.dumps(content))
    register = {
        f"fruits_nuts_{part}": {"annotations": str(new[f"{part}_annotations"]), "images": str(new[f"{part}_images"])}
        for part in ("train", "val")
    }
    config = load_config("fruits_nuts", {"DATASETS.REGISTER": register})
    finding = the_one(config, "data/duplicates")
    assert finding.figure.startswith("2 test images are also training images under another name")
    assert how in finding.figure
    assert len(finding.values["pairs"]) == 2


def test_the_same_file_in_both_sets_is_told_once(tiny_dataset: Dataset) -> None:
    config = sound_config(tiny_dataset, DATASETS__TEST=["shapes_train"])
    assert the_one(config, "data/duplicates").figure.startswith("12 images are both in the training and in the test")


@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb", "coco_cc"])
def test_different_pictures_are_not_the_same(data_root: Path, name: str) -> None:
    """Cells on a dark ground, and dates on a table, look much alike."""
    folder = data_root / name
    train, test = (
        look_at(load_coco(part, folder / f"annotations_{part}.json", folder / part)) for part in ("train", "val")
    )
    assert not any(look.problem or look.one_colour for look in (*train, *test))
    assert not same_pictures(train, test, ALIKE - 0.06)


def test_of_many_or_large_images_some_are_decoded_always_the_same(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_coco("t", tiny_dataset["train_annotations"], tiny_dataset["train_images"])
    monkeypatch.setattr(images, "MOST", 5)
    assert [look.record for look in look_at(dataset)] == [dataset.records[i] for i in (0, 2, 4, 7, 9)]
    monkeypatch.setattr(images, "MOST_MEGAPIXELS", 3 * 64 * 64 / 1e6)
    assert len(look_at(dataset)) == 3
    monkeypatch.setattr(images, "MOST_MEGAPIXELS", 0.0)
    assert len(look_at(dataset)) == 1


# Outlines


def named_anew(dataset: Dataset, folder: Path) -> Dataset:
    """Every image entry has the file of the next one: ids slipped by one."""

    def slip(content: dict[str, Any]) -> None:
        names = [image["file_name"] for image in content["images"]]
        for image, name in zip(content["images"], [*names[1:], names[0]], strict=True):
            image["file_name"] = name

    return changed(dataset, folder, slip, "train", "val")


def mirrored(dataset: Dataset, folder: Path) -> Dataset:
    """Pictures that were mirrored after they had been annotated; the annotations contradict nothing."""
    new = copied(dataset, folder)
    for part in ("train", "val"):
        for file in new[f"{part}_images"].iterdir():
            Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    return new


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return generate_shapes(tmp_path_factory.mktemp("many"), train_images=30, val_images=30)


@pytest.mark.parametrize("fault", [named_anew, mirrored])
def test_masks_that_are_not_of_their_image_are_named(
    fault: Callable[[Dataset, Path], Dataset], many: Dataset, tmp_path: Path
) -> None:
    kinds = [finding.figure for finding in found(sound_config(fault(many, tmp_path)), "data/outlines")]
    assert [kind.partition(":")[0] for kind in kinds] == ["train", "test", "training, as the network sees it"]


def test_an_augmentation_that_moves_masks_is_named(many: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(sound_config(many))
    batches = subject.engine.train_batches

    def moved(**place: int) -> Iterator[list[TrainSample]]:
        for samples in batches(**place):
            yield [replace(s, target=replace(s.target, masks=s.target.masks.roll((9, 9), (1, 2)))) for s in samples]

    monkeypatch.setattr(type(subject.engine), "train_batches", lambda self, **place: moved(**place))
    finding = the_one(subject, "data/outlines")
    assert finding.figure.startswith("training, as the network sees it: only ")


def test_masks_that_follow_their_images_are_right(many: Dataset) -> None:
    assert not found(sound_config(many), "data/outlines")
