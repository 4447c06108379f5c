"""Labels: inside the picture, apart from each other, beside their instance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from raytune_m2f.visualize.labels import Label, font_size, place_labels, place_legend
from raytune_m2f.visualize.shapes import Anchors, Box

RED = (255, 0, 0)
HEIGHT, WIDTH = 640, 800


def square(x: int, y: int, half: int = 20) -> Anchors:
    return Anchors(top=(x, y - half), bottom=(x, y + half), left=(x - half, y), right=(x + half, y), centre=(x, y))


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def owners(*squares: Anchors) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    table = np.full((HEIGHT, WIDTH), -1)
    for i, at in enumerate(squares):
        table[max(at.top[1], 0) : at.bottom[1], max(at.left[0], 0) : at.right[0]] = i
    return table


def label(title: str = "hazelnut 97%") -> Label:
    return Label(title, ("isolated 53%", "round 40%"), RED)


def test_labels_are_apart_and_inside() -> None:
    generator = np.random.default_rng(0)
    places = [square(int(generator.integers(0, WIDTH)), int(generator.integers(0, HEIGHT))) for _ in range(10)]

    placed = place_labels([label()] * 10, places, owners(*places))

    assert placed
    for one, other in itertools.combinations(placed, 2):
        assert not overlap(one.box, other.box)
    for left, top, right, bottom in (p.box for p in placed):
        assert 0 <= left < right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT


def test_a_lonely_label_stands_above_its_instance() -> None:
    at = square(400, 300)

    (placed,) = place_labels([label()], [at], owners(at))

    left, _, right, bottom = placed.box
    assert left < 400 < right
    assert 0 < at.top[1] - bottom < 10


def test_a_label_avoids_another_instance() -> None:
    at, above = square(400, 300), square(400, 230, half=45)

    placed = place_labels([label(), label()], [at, above], owners(at, above))

    assert placed[0].box[1] >= at.top[1]


def test_many_labels_become_short_and_a_crowd_has_none() -> None:
    def shown(count: int, step: int) -> list[int]:
        columns = WIDTH // step
        places = [square(20 + step * (i % columns), 60 + step * (i // columns), half=10) for i in range(count)]
        return [len(p.label.details) for p in place_labels([label()] * count, places, owners(*places))]

    assert shown(5, 150) == [2] * 5
    assert shown(25, 110) == [0] * 25
    assert shown(150, 40) == []


def test_a_legend_keeps_to_the_picture() -> None:
    placed = place_legend([(f"category {i}: 3", RED) for i in range(100)], (WIDTH, HEIGHT))

    assert 5 < len(placed) < 100
    assert placed[-1].box[3] <= HEIGHT
    assert all(one.box[3] == other.box[1] for one, other in itertools.pairwise(placed))
    assert place_legend([], (WIDTH, HEIGHT)) == []


@pytest.mark.parametrize(("size", "expected"), [((96, 96), 13), ((640, 800), 15), ((2000, 3000), 48)])
def test_text_grows_with_the_picture(size: tuple[int, int], expected: int) -> None:
    assert font_size(size) == expected
