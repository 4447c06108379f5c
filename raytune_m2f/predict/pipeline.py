"""`predict_files`: images are read and pictures drawn in threads, while the network works on a batch.

On a CPU several batches are in the network at once, each on its share of the cores: with one at a time cores are idle
wherever a layer is too small to be shared by all.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raytune_m2f.config.load import Overrides, override_layers
from raytune_m2f.config.yaml_file import flatten
from raytune_m2f.data import read_image
from raytune_m2f.data.masks import Rle
from raytune_m2f.errors import ConfigError, DatasetError, InputError, UnreadableImagesError, first_of
from raytune_m2f.export import ExportedModel
from raytune_m2f.model import MultiTaskMaskFormer, PackedInstances
from raytune_m2f.predict.content import (
    INSTANCES,
    MAX_PICTURE_PIXELS,
    RESULTS,
    Predicted,
    annotation_file,
    picture,
    results_file,
)
from raytune_m2f.predict.evaluate import SHOWN, Progress
from raytune_m2f.predict.files import Page, common_folder, find_images, find_pages, picture_names, require_output
from raytune_m2f.storage.files import sealed_json, sealed_json_lines, write_atomically

MOST_THREADS = 8
MOST_AT_ONCE = 4
"""Batches in the network of a CPU at once: each has activations of its own."""
HELD_BYTES = 2**28
"""Pixels of images between their reading and their picture: more are not read, but for one image alone."""
OF_PREDICTION = ("MODEL.MASK_FORMER.TEST.", "TEST.TILES.", "TEST.DETECTIONS_PER_IMAGE", "TEST.IMS_PER_BATCH")
RESIZES = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
"""With `OF_PREDICTION` the keys that a prediction depends on, beside the network's own."""
OnImage = Callable[[dict[str, Any]], object]
"""Called for each image with what `Predicted.line` gives, or with "file_name", perhaps "page", and "error"."""


def with_overrides(exported: ExportedModel, overrides: Overrides = (), *, batch: int | None = None) -> ExportedModel:
    """The same model with other values of the configuration's keys that predictions depend on.

    Args:
        overrides: of `OF_PREDICTION` and `RESIZES`.
        batch: images (or windows of one, with TEST.TILES) that the network takes at once, in place of
            TEST.IMS_PER_BATCH.

    Raises:
        ConfigError: a key is unknown, or predictions do not depend on it; a value is not allowed.
        InputError: the batch is less than 1.
    """
    values = {key: value for layer in override_layers(overrides) for key, value in flatten(layer.values).items()}
    if batch is not None:
        if batch < 1:
            raise InputError(f"--batch: got {batch}, allowed: a number of images from 1 on")
        values["TEST.IMS_PER_BATCH"] = batch
    if not values:
        return exported
    config = exported.config.with_values(values, source="--set")  # names unknown keys, with the likely ones
    if others := [key for key in values if not key.startswith(OF_PREDICTION) and key not in RESIZES]:
        allowed = ", ".join([*(f"{key}*" if key.endswith(".") else key for key in OF_PREDICTION), *RESIZES])
        raise ConfigError(f"--set: {others[0]}: predictions do not depend on it; allowed: {allowed}")
    return replace(exported, config=config)


def predict_files(
    exported: ExportedModel,
    images: Sequence[Path],
    output: Path | None,
    *,
    min_score: float = 0.5,
    max_megapixels: float | None = None,
    max_picture_pixels: int = MAX_PICTURE_PIXELS,
    on_image: OnImage = lambda line: None,
    progress: Progress = lambda done, total, name: None,
) -> dict[str, Any]:
    """Predict image files: an overlay PNG for each, and all instances as COCO JSON.

    Every page of a file with several is an image of its own. Images of one size go through the network together,
    TEST.IMS_PER_BATCH at once, so that none is padded by another's size. What is done is also written if the rest is
    interrupted.

    Args:
        images: image files; a folder stands for all images in it, a pattern for the files that fit it.
        output: directory for `<name>.png`, `instances.json` and `results.json`; None: nothing is written.
        min_score: instances below it are neither drawn nor written, nor are those without a pixel.
        max_megapixels: see `read_image`.
        max_picture_pixels: see `content.picture`.
        on_image: called for each image, in the order in which they are done.
        progress: called when an image is done.

    Returns:
        The content of instances.json: a COCO file whose annotations have a "score" and, for each head, its class
        index and "<head>_score". File names are relative to the folder that all images are in, info.images. The same
        instances with the probabilities of each head are in results.json, COCO's results.

    Raises:
        InputError: no image, or a file of the user's would be overwritten; nothing is done then.
        UnreadableImagesError: some of the files are no images; the others are done.
        DatasetError: none is an image that can be read.
    """
    files = find_images(images)
    at_once = batches_at_once(exported)
    each = max(1, torch.get_num_threads() // at_once)
    with _threads(_thread_count(), 1) as pool, _threads(at_once, each) as networks:
        pages = [page for found in pool.map(find_pages, files) for page in found]
        names = picture_names(pages)
        if output is not None:
            require_output(output, images, files, [INSTANCES, RESULTS, *names.values()])
            output.mkdir(parents=True, exist_ok=True)

        def read(page: Page) -> _Image:
            number = None if page.number is None else page.number - 1
            pixels = read_image(page.file, page=number, max_megapixels=max_megapixels)
            return _Image(page, pixels, exported.resized(pixels))

        def finish(image: _Image, found: PackedInstances[Rle]) -> Predicted:
            if output is not None:
                drawn = picture(image.pixels, found, exported.categories, min_score, max_picture_pixels)
                write_atomically(output / names[image.page], drawn)
            return Predicted.of(image.page, image.size, found, exported.categories, min_score)

        done: dict[Page, Predicted] = {}
        failed: dict[Page, str] = {}

        def tell(page: Page, result: Predicted | Exception) -> None:
            if isinstance(result, Predicted):
                done[page] = result
                line = result.line(exported.categories)
            else:
                failed[page] = str(result)
                number = {} if page.number is None else {"page": page.number}
                line = {"file_name": str(page.file), **number, "error": str(result)}
            on_image(line)
            progress(len(done) + len(failed), len(pages), page.name)

        pipeline = _Pipeline(pool, networks, at_once, exported, read, finish, tell)
        try:
            pipeline.run(pages)
        finally:
            done |= pipeline.stop()
            found = [done[page] for page in pages if page in done]
            text = sealed_json(annotation_file(found, common_folder(pages), exported.categories))
            if found and output is not None:
                write_atomically(output / RESULTS, sealed_json_lines(results_file(found)))
                write_atomically(output / INSTANCES, text)
    if failed:
        raise _left_out([failed[page] for page in pages if page in failed], len(pages), output)
    written: dict[str, Any] = json.loads(text)
    return written


def _left_out(failed: Sequence[str], images: int, output: Path | None) -> Exception:
    others = images - len(failed)
    rest = f"{output / INSTANCES} has the other {others}" if output is not None else f"the other {others} are done"
    summary = f"{len(failed)} of {images} images were left out; {rest if others else 'nothing was written'}:"
    kind = UnreadableImagesError if others else DatasetError
    return kind("\n  ".join([summary, *first_of(failed, SHOWN)]))


@dataclass(frozen=True)
class _Image:
    """A page that was read.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        resized: (3, h, w) uint8, for the network.
    """

    page: Page
    pixels: NDArray[np.uint8]
    resized: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass
class _Pipeline:
    """Images on their way through reading, the network and drawing, each in its threads; the rest is in this one.

    Attributes:
        pool: reads and draws.
        networks: predicts; it has at_once threads.
        read, finish: run in the pool.
        tell: called with each page and what became of it.
        reading, predicting, drawing: in the order of their submission.
        waiting: images that were read, by their size in the network; each list is shorter than a batch.
        held: bytes of the pixels of all pages that are on the way.
    """

    pool: ThreadPoolExecutor
    networks: ThreadPoolExecutor
    at_once: int
    exported: ExportedModel
    read: Callable[[Page], _Image]
    finish: Callable[[_Image, PackedInstances[Rle]], Predicted]
    tell: Callable[[Page, Predicted | Exception], None]
    reading: deque[tuple[Page, Future[_Image]]] = field(default_factory=deque)
    waiting: dict[tuple[int, ...], list[_Image]] = field(default_factory=dict)
    predicting: deque[tuple[list[_Image], Future[list[PackedInstances[Rle] | None]]]] = field(default_factory=deque)
    drawing: deque[tuple[Page, Future[Predicted]]] = field(default_factory=deque)
    held: int = 0

    def __post_init__(self) -> None:
        test = self.exported.config.TEST
        # with windows the network is given those of one image at once
        tiled = getattr(test, "TILES", None) is not None and test.TILES.ENABLED
        self.batch = 1 if tiled else test.IMS_PER_BATCH
        self.ahead = 2 * _thread_count()

    def run(self, pages: Sequence[Page]) -> None:
        """Predict all pages, in an order in which images of one size come together."""
        for page in pages:
            while len(self.reading) >= self.ahead + self.batch or self._is_full(page):
                self._step()
            self.held += page.bytes
            self.reading.append((page, self.pool.submit(self.read, page)))
        while self.reading or self.waiting or self.predicting or self.drawing:
            self._step()

    def stop(self) -> dict[Page, Predicted]:
        """Start nothing more; what was on its way to be drawn and has come to its end all the same."""
        for _, read in self.reading:
            read.cancel()
        for _, predicted in self.predicting:
            predicted.cancel()
        for _, drawn in self.drawing:
            drawn.cancel()
        ends = [(page, future) for page, future in self.drawing if not future.cancelled()]
        return {page: future.result() for page, future in ends if future.exception() is None}

    def _is_full(self, page: Page) -> bool:
        return self.held > 0 and self.held + page.bytes > HELD_BYTES

    def _step(self) -> None:
        """The next thing to do, or to wait for: what is ready to be told, what can be predicted, what was read."""
        if self.drawing and (len(self.drawing) > self.ahead or self.drawing[0][1].done()):
            self._end_drawing()
        elif self.predicting and (len(self.predicting) > self.at_once or self.predicting[0][1].done()):
            self._end_predicting()
        elif self.reading:
            self._end_reading()
        elif self.waiting:
            self._predict(next(iter(self.waiting)))
        elif self.predicting:
            self._end_predicting()
        else:
            self._end_drawing()

    def _end_reading(self) -> None:
        page, future = self.reading.popleft()
        try:
            image = future.result()
        except DatasetError as error:
            self._end(page, error)
            return
        except MemoryError:
            self._end(page, DatasetError(f"image {page.file} cannot be read: it does not fit into the memory"))
            return
        size = tuple(image.resized.shape)
        self.waiting.setdefault(size, []).append(image)
        if len(self.waiting[size]) >= self.batch:
            self._predict(size)
        elif sum(map(len, self.waiting.values())) >= 2 * self.batch:
            self._predict(next(iter(self.waiting)))  # its size is rare

    def _predict(self, size: tuple[int, ...]) -> None:
        images = self.waiting.pop(size)
        self.predicting.append((images, self.networks.submit(self._predicted, images)))

    def _end_predicting(self) -> None:
        images, future = self.predicting.popleft()
        for image, found in zip(images, future.result(), strict=True):
            if found is None:
                lack = f"image {image.page.file} cannot be predicted: it does not fit into the GPU's memory"
                self._end(image.page, DatasetError(f"{lack}; --device cpu has more"))
            else:
                self.drawing.append((image.page, self.pool.submit(self.finish, image, found)))

    def _predicted(self, images: Sequence[_Image]) -> list[PackedInstances[Rle] | None]:
        """The instances of each image, on the CPU; None where the GPU has too little memory for it alone."""
        try:
            found = self.exported.predict_batch([image.resized for image in images], [image.size for image in images])
            return [each.to("cpu") for each in found]
        except torch.OutOfMemoryError:
            if len(images) == 1:
                return [None]
        self.batch = half = len(images) // 2  # the next ones are no smaller
        return [*self._predicted(images[:half]), *self._predicted(images[half:])]

    def _end_drawing(self) -> None:
        page, future = self.drawing.popleft()
        self._end(page, future.result())

    def _end(self, page: Page, result: Predicted | Exception) -> None:
        self.held -= page.bytes
        self.tell(page, result)


def batches_at_once(exported: ExportedModel) -> int:
    """How many batches go through the network side by side: on a GPU one; on a CPU each has its share of the cores."""
    ours = isinstance(exported.model, MultiTaskMaskFormer)  # detectron2's networks do not say that they may
    return min(MOST_AT_ONCE, torch.get_num_threads()) if ours and exported.device.type == "cpu" else 1


def _thread_count() -> int:
    return min(MOST_THREADS, os.cpu_count() or 1)


def _threads(count: int, cores: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses so many cores; in this one as many as before."""
    ours = torch.get_num_threads()

    def use() -> None:
        torch.get_num_threads()  # at its first use a thread takes what all have: this is to be before the next line
        torch.set_num_threads(cores)

    pool = ThreadPoolExecutor(count, "predict", initializer=use)
    together = Barrier(count + 1)
    for _ in range(count):
        pool.submit(together.wait)
    together.wait()  # all have begun: what torch sets for all threads, not for one, is as it was
    torch.set_num_threads(ours)
    return pool
