"""Any text: in a font that has it, never as boxes, and where no font has it, said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from raytune_m2f.data import Categories
from raytune_m2f.model import Instances
from raytune_m2f.visualize import draw_instances
from raytune_m2f.visualize.fonts import NO_CHARACTER, Fonts, load_font, system_fonts

TEXTS = (
    "hazelnut 97% …",
    "Größe é ñ",
    "Яблоко",
    "μήλο",
    "苹果",
    "りんご",
    "사과",
    "تفاح",
    "सेब",
    "😀",
    "a\nb\tc",
    "\udcff",
    "",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_drawn_without_boxes_or_known_to_be_missing(text: str) -> None:
    fonts = system_fonts()
    if fonts.missing(text):
        return
    for part, font in fonts.runs(text, 20):
        box = font.getmask(NO_CHARACTER)
        for character in part:
            drawn = font.getmask(character)
            assert (drawn.size, bytes(drawn)) != (box.size, bytes(box))
    picture = Image.new("RGB", (400, 40))
    fonts.draw(ImageDraw.Draw(picture), (5, 20), text, 20, (255, 255, 255))
    right = max(np.flatnonzero(np.asarray(picture).any((0, 2))), default=0)
    assert abs(right - 5 - fonts.length(text.strip(), 20)) <= 8


def test_latin_is_in_pillows_own_font_on_every_machine() -> None:
    fonts = system_fonts()
    assert fonts.runs("hazelnut 97% …", 20) == [("hazelnut 97% …", load_font("", 20))]
    assert fonts.missing("hazelnut 97%\n…") == ""


def test_without_a_font_labels_are_numbers_and_a_note_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fonts = Fonts(())
    assert fonts.missing("苹果 apple 苹") == "苹果"
    chinese = Categories(ids=(7,), names=("苹果",), subcategories={"stage": ("未熟", "ripe")})
    plain = Categories(ids=(7,), names=("category 7",), subcategories={"stage": ("stage 0", "ripe")})
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 20:40, 20:40] = True
    probabilities = {"stage": torch.eye(2)[:1]}
    found = Instances(torch.ones(1), torch.zeros(1, dtype=torch.long), mask, torch.zeros(1), probabilities)
    image = np.full((64, 64, 3), 128, np.uint8)
    for _ in range(2):
        one, other = (draw_instances(image, found, names, fonts=fonts) for names in (chinese, plain))
        np.testing.assert_array_equal(one, other)
    assert caplog.text.count("'苹果': it is 'category 7' in the pictures") == 1
    assert caplog.text.count("'未熟': it is 'stage 0' in the pictures") == 1
    assert caplog.text.count("fonts-noto-cjk") == 1
