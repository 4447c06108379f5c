"""The run lengths of Label Studio's brush: those of @thi.ng/rle-pack, over an RGBA picture whose alpha is the mask.

https://www.npmjs.com/package/@thi.ng/rle-pack; Label Studio's own reader is label_studio_sdk.converter.brush, which
spells every bit as a character, and comes with OpenCV, nltk, pandas and more: 40 lines are lighter.

    32 bits   how many values
    5         bits of a value, less 1
    4 x 4     bits of a count, less 1, for each of four sizes
    then packets: 1 bit: whether one value repeats; 2: which size; the count less 1; that value, or so many values
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raytune_m2f.project.dialects.outlines import MOST_PIXELS, Mask

CHANNELS = 4
ALPHA = 3


def decode_brush(data: Sequence[object], height: int, width: int) -> Mask | None:
    """The mask (height, width): where alpha is not 0. None if the bytes are not such a picture of that size."""
    if height * width > MOST_PIXELS or not all(type(byte) is int and 0 <= byte < 256 for byte in data):
        return None
    bits = _Bits(bytes(byte for byte in data if isinstance(byte, int)))
    mask = np.zeros(height * width, bool)
    try:
        total, value_bits = bits.read(32), bits.read(5) + 1
        sizes = [bits.read(4) + 1 for _ in range(4)]
        if total != height * width * CHANNELS:
            return None
        place = 0
        while place < total:
            repeats = bits.read(1)
            length = bits.read(sizes[bits.read(2)]) + 1
            if place + length > total:
                return None
            # Pixel p has its alpha at 4 p + 3: values from `place` on hold those of the pixels from place // 4 on.
            if repeats:
                mask[place // CHANNELS : (place + length) // CHANNELS] = bits.read(value_bits) != 0
            else:
                for offset in range(length):
                    value = bits.read(value_bits)
                    if (place + offset) % CHANNELS == ALPHA:
                        mask[(place + offset) // CHANNELS] = value != 0
            place += length
    except EOFError:
        return None
    return mask.reshape(height, width)


class _Bits:
    """Numbers of a few bits each, the first bit of a byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def read(self, count: int) -> int:
        first, last = self._place // 8, (self._place + count + 7) // 8
        if last > len(self._data):
            raise EOFError
        whole = int.from_bytes(self._data[first:last], "big")
        self._place += count
        return (whole >> (8 * last - self._place)) & ((1 << count) - 1)
