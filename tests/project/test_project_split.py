"""Train and val: by content alone, every class in both where it can be, groups together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_exports import Said, export, item, picture, pictures_of

from raytune_m2f.errors import InputError
from raytune_m2f.project.export import Picture
from raytune_m2f.project.fields import Head
from raytune_m2f.project.masks import Photo, masks_of
from raytune_m2f.project.split import Split, only_once, sequences, split

COLOUR = Head("colour", "colour", ("blue", "red"))


def photos(pictures: list[Picture]) -> tuple[Photo, ...]:
    return masks_of(export(pictures)).photos


def names(part: tuple[Photo, ...]) -> list[str]:
    return [photo.name for photo in part]


def many(folder: Path, count: int = 40) -> list[Picture]:
    """Pictures of apples, of which every fourth has a pear, two have a rare fig, and two have nothing."""
    said: list[list[Said]] = []
    for n in range(count):
        objects: list[Said] = [("apple", {"colour": "red" if n % 5 else "blue"})]
        objects += [("pear", {})] * (n % 4 == 0) + [("fig", {})] * (n in (3, 17))
        said.append([] if n in (5, 6) else objects)
    return pictures_of(folder, said)


def test_every_class_has_its_share_in_val(tmp_path: Path) -> None:
    divided = split(photos(many(tmp_path)), [COLOUR])
    assert 8 <= len(divided.val) <= 9  # 0.2 of 40, and room for the rare
    counts = Counter(thing.item.category for photo in divided.val for thing in photo.things)
    assert (counts["pear"], counts["fig"]) == (2, 1)
    assert sum(not photo.things for photo in divided.val) == 1
    colours = Counter(thing.item.fields.get("colour") for photo in divided.val for thing in photo.things)
    assert 1 <= colours["blue"] <= 2
    assert not only_once(divided, [COLOUR])


def test_the_order_of_the_export_changes_nothing(tmp_path: Path) -> None:
    pictures = many(tmp_path)
    divided = split(photos(pictures), [COLOUR])
    assert split(photos(pictures[::-1]), [COLOUR]) == divided
    assert names(divided.val) != names(split(photos(pictures), [COLOUR], seed=1).val)


def test_another_place_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    here, there = (names(split(photos(many(tmp_path / where)), []).val) for where in ("here", "there/deeper"))
    assert here == there


@pytest.mark.parametrize("group_by", ["video", "info.video", r"(\d)\d\.png"])
def test_groups_stay_together(tmp_path: Path, group_by: str) -> None:
    pictures = [
        picture(tmp_path, f"{n:03d}.png", [item(0, "apple")], fields={"info.video": n // 10, "hour": n % 3})
        for n in range(40)
    ]
    divided = split(photos(pictures), [], val=0.25, group_by=group_by)
    trained, scored = ({name[1] for name in names(part)} for part in (divided.train, divided.val))
    assert len(scored) == 1
    assert not trained & scored
    assert "4 groups" in divided.how[0]


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        (
            "videos",
            r"as a regular expression it has no group: .* Or a field: the images have the fields video; did you m",
        ),
        (r"frame(\d)", "no image has a group; names look like 000.png"),
        (r"(", "no regular expression"),
        (r"(0)", r"one group, of all 4 images\. Give more images, or another --group-by"),
    ],
)
def test_groups_that_are_none(tmp_path: Path, group_by: str, message: str) -> None:
    pictures = pictures_of(tmp_path, [[("apple", {})]] * 4, fields={"video": 1})
    with pytest.raises(InputError, match=message):
        split(photos(pictures), [], group_by=group_by)


def test_images_without_a_group_are_told(tmp_path: Path) -> None:
    pictures = [picture(tmp_path, name, [item(0, "apple")]) for name in ("a_1.png", "a_2.png", "b_1.png", "odd.png")]
    divided = split(photos(pictures), [], group_by=r"(\w)_\d")
    assert any("1 image without a group, each by itself: odd.png" in line for line in divided.how)


# Parts of the export


def parted(folder: Path, *parts: str | None) -> tuple[Photo, ...]:
    return photos([picture(folder, f"{n}.png", [item(0, "apple")], part=part) for n, part in enumerate(parts)])


def test_parts_of_the_export_are_kept(tmp_path: Path) -> None:
    divided = split(parted(tmp_path, "train", "val", "test", None), [])
    assert (names(divided.train), names(divided.val), names(divided.test)) == (["0.png", "3.png"], ["1.png"], ["2.png"])


def test_test_scores_where_there_is_no_val(tmp_path: Path) -> None:
    divided = split(parted(tmp_path, "train", "test"), [])
    assert (names(divided.val), divided.test) == (["1.png"], ())
    assert "its test scores the trainings" in divided.how[0]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_single_part_is_divided(tmp_path: Path, part: str) -> None:
    divided = split(parted(tmp_path, *[part] * 10), [])
    assert (len(divided.train), len(divided.val), len(divided.test)) == (8, 2, 0)


def test_val_given_divides_anew_and_leaves_test_alone(tmp_path: Path) -> None:
    divided = split(parted(tmp_path, "train", "train", "val", "val", "test"), [], val=0.5)
    assert (len(divided.train), len(divided.val), names(divided.test)) == (2, 2, ["4.png"])
    assert divided.is_new
    assert "divided anew" in divided.how[1]


def test_a_part_without_an_object_is_refused(tmp_path: Path) -> None:
    pictures = [
        picture(tmp_path, "0.png", [item(0, "apple")], part="train"),
        picture(tmp_path, "1.png", [], part="val"),
    ]
    with pytest.raises(InputError, match="val has 1 image, and no object with a mask in them"):
        split(photos(pictures), [])


def test_one_image_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is one image"):
        split(parted(tmp_path, None), [])
    with pytest.raises(InputError, match="with a single image that has objects"):
        split(photos([picture(tmp_path, "0.png", [item(0, "apple")]), picture(tmp_path, "9.png", [])]), [])


def test_a_class_of_one_image_is_told(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path, [*[[("apple", {"colour": "red"})]] * 9, [("fig", {"colour": "blue"})]])
    divided = split(photos(pictures), [COLOUR])
    assert only_once(divided, [COLOUR]) == [
        "category: in train only, so never scored: fig",
        "colour: in train only, so never scored: blue",
    ]


@settings(max_examples=60, deadline=None)
@given(
    said=st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=4), min_size=2, max_size=30),
    val=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_whatever_the_images_each_is_in_one_part_and_both_have_objects(
    tmp_path_factory: pytest.TempPathFactory, said: list[list[str]], val: float, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "split"
    everything = pictures_of(folder, [[(category, {}) for category in objects] for objects in said])
    with_objects = sum(map(bool, said))
    try:
        divided: Split = split(photos(everything), [], val=val, seed=seed)
    except InputError:
        assert with_objects < 2
        return
    assert sorted([*names(divided.train), *names(divided.val)]) == [photo.name for photo in photos(everything)]
    holders = Counter(category for objects in said for category in set(objects))
    for part in (divided.train, divided.val):
        there = {thing.item.category for photo in part for thing in photo.things}
        assert there
        if with_objects > 8 and min(holders.values()) > 4:
            assert there == set(holders)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ([f"vid{n // 5}_{n:04d}.jpg" for n in range(20)], 4),
        ([f"walk {n // 5}/{n:04d}.jpg" for n in range(20)], 4),
        ([f"{n:04d}.jpg" for n in range(20)], 0),
        ([f"nuts_{n:02d}.jpg" for n in range(20)], 0),
        ([f"{('train', 'val')[n % 2]}/{n:02d}.jpg" for n in range(20)], 0),
        ([f"{('Apple', 'pear')[n % 2]}_{n:02d}.jpg" for n in range(20)], 0),
        ([f"{n * 7919:x}a{n % 3}.png" for n in range(20)], 0),
    ],
)
def test_names_that_look_like_frames_are_told(tmp_path: Path, names: list[str], count: int) -> None:
    seen = photos([picture(tmp_path, name.replace(".jpg", ".png"), [item(0, "apple")]) for name in names])
    line = sequences(seen)
    assert f"{count} sequences" in line if count else line == ""
    if count:
        divided = split(seen, [], group_by=line.split("'")[1])
        assert f"{count} groups" in divided.how[0]
