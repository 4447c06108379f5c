"""The same test images through several trials, beside their ground truth; and the best trial's heads on the test set.

Nothing here can end a report: where a checkpoint, the data or an image are gone, the reason takes the picture's place.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raytune_m2f.config import Config
from raytune_m2f.config.paths import refuse_untrusted
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import Categories, CocoDataset, ImageRecord, TestSample
from raytune_m2f.data.images import read_record
from raytune_m2f.engines.datasets import load_registered
from raytune_m2f.engines.detectron2.learner import build_any_model
from raytune_m2f.errors import ConfigError, RaytuneM2FError
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.export import ExportedModel
from raytune_m2f.export_files import read_portable
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.model import Instances
from raytune_m2f.report.content import Content
from raytune_m2f.scores import Scores
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.status import TrialStatus, relative
from raytune_m2f.visualize import draw_instances, ground_truth_instances

LONGEST_SIDE, SHORT_SIDE = 640, 320
"""Pixels of a picture: larger images are shrunk, smaller ones enlarged, so that labels can be read."""
QUALITY = 78
SURE_ENOUGH = (0.5, 0.35, 0.2, 0.1)
"""Scores from which on instances are drawn: the highest at which the best trial draws half as many as there are."""
UNUSABLE = (RaytuneM2FError, OSError, RuntimeError)
"""What is wrong with data, weights or a device; RuntimeError is torch's."""
Pixels = NDArray[np.uint8]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """A picture, or why there is none.

    Attributes:
        title: above it.
        words: what is on it, for who does not see it; or the reason.
        data: of a WebP as a data: address; None without a picture.
    """

    title: str
    words: str
    data: str | None = None


@dataclass(frozen=True)
class Row:
    """One test image: its truth, and the predictions of each trial."""

    file: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Pictures of some test images.

    Attributes:
        missing: why there are none; None if there are.
        threshold: the score from which on instances are drawn.
    """

    rows: list[Row] = field(default_factory=list)
    threshold: float = SURE_ENOUGH[0]
    missing: str | None = None


@dataclass(frozen=True)
class Heads:
    """The best trial on test images, or why it was not evaluated.

    Attributes:
        trial: its number.
        scores: of all metrics, with intervals.
        images, of: how many were predicted, of how many in the test set.
    """

    trial: int | None = None
    scores: Scores | None = None
    images: int = 0
    of: int = 0
    missing: str | None = None


class Predictor:
    """Predicts test images with the trials of a study; what was predicted once is kept while it lives.

    Args:
        device: such as "cpu" or "cuda:1"; None: the GPU if there is one, and nobody drives the study.
        trust: whether Python files that the stored configurations name (DATASETS.IMPORT) may run.
    """

    def __init__(self, study: StudyDirectory, *, device: str | None = None, trust: bool = False) -> None:
        self._study, self._device, self._trust = study, device, trust
        self._dataset: CocoDataset | None = None
        self._drawn: dict[tuple[int, int | None, int], Instances] = {}
        self._heads: dict[tuple[int, int | None, int], Heads] = {}

    def gallery(self, content: Content, count: int, tell: Tell) -> Gallery:
        """`count` test images through the trials that are `content.shown`."""
        if not count:
            return Gallery(missing="no pictures were asked for (--pictures 0)")
        try:
            dataset = self.dataset(content)
            records = spread([r for r in dataset.records if r.instances] or list(dataset.records), count)
            images = [(record, _shrunk(read_record(record))) for record in records]
        except UNUSABLE as error:
            return Gallery(missing=f"the test images cannot be shown here: {error}")
        predicted: dict[int, list[Instances] | str] = {}
        for done, trial in enumerate(content.shown, start=1):
            predicted[trial.number] = self._predicted(content, trial, images, partial(tell, done, len(content.shown)))
        threshold = _threshold(images, next((p for p in predicted.values() if not isinstance(p, str)), []))
        rows = []
        for number, (record, pixels) in enumerate(images):
            truth = _resized(ground_truth_instances(record, dataset.categories), pixels)
            pictures = [_picture("truth", pixels, truth, dataset.categories, threshold, scores=False)]
            for trial in content.shown:
                title, found = _title(content, trial), predicted[trial.number]
                if isinstance(found, str):
                    pictures.append(Picture(title, found))
                else:
                    pictures.append(_picture(title, pixels, found[number], dataset.categories, threshold))
            rows.append(Row(record.file.name, pictures))
        return Gallery(rows, threshold)

    def heads(self, content: Content, most: int, tell: Tell) -> Heads:
        """The best trial on at most `most` test images, evenly spread over the test set."""
        trial = next(iter(content.ranked), None)
        if trial is None:
            return Heads(missing="no trial has a score yet")
        if not most:
            return Heads(missing="no evaluation was asked for (--test-images 0)")
        if content.status.driver is not None:
            return Heads(missing="the study still runs; its best trial is evaluated once it has ended")
        key = trial.number, trial.best_iteration, most
        if key not in self._heads:
            try:
                self._heads[key] = self._evaluated(content, trial, most, tell)
            except UNUSABLE as error:
                return Heads(missing=f"trial {trial.number}, the best, cannot be evaluated here: {error}")
        return self._heads[key]

    def dataset(self, content: Content) -> CocoDataset:
        """The test set of the study. Raises ConfigError where it is not registered, and DatasetError."""
        if self._dataset is None:
            config = content.plan.config
            if not config.DATASETS.TEST:
                raise ConfigError("the configuration of the study names no test set (DATASETS.TEST)")
            self._dataset = load_registered(config, config.DATASETS.TEST[0])
        return self._dataset

    def _predicted(
        self,
        content: Content,
        trial: TrialStatus,
        images: Sequence[tuple[ImageRecord, Pixels]],
        tell: Callable[[], None],
    ) -> list[Instances] | str:
        """The instances of each image, or why there are none; `tell` is called if they were not known before."""
        keys = [(trial.number, trial.best_iteration, record.id) for record, _ in images]
        if any(key not in self._drawn for key in keys):
            shown = {(other.number, other.best_iteration) for other in content.shown}
            self._drawn = {key: found for key, found in self._drawn.items() if key[:2] in shown}
            try:
                model = self._model(content, trial)
                for key, (_, pixels) in zip(keys, images, strict=True):
                    (found,) = model.predict([model.resized(pixels)], [pixels.shape[:2]])
                    self._drawn[key] = _likely(found.to("cpu"))
            except UNUSABLE as error:
                return f"trial {trial.number}: {error}"
            tell()
        return [self._drawn[key] for key in keys]

    def _evaluated(self, content: Content, trial: TrialStatus, most: int, tell: Tell) -> Heads:
        dataset = self.dataset(content)
        records = tuple(spread(dataset.records, most))
        model = self._model(content, trial)
        evaluator = CocoEvaluator(
            replace(dataset, records=records),
            max_detections=model.config.TEST.DETECTIONS_PER_IMAGE,
            evaluator=model.config.TEST.EVALUATOR,
        )
        for done, record in enumerate(records, start=1):
            sample = TestSample(torch.empty(0), record.id, record.height, record.width, record.file)
            evaluator.process([sample], [model.predict_encoded(read_record(record))])
            tell(done, len(records))
        evaluator.evaluate()
        scores = Scores(evaluator.evaluation, error_gains=evaluator.error_gains())
        return Heads(trial.number, scores, len(records), len(dataset.records))

    def _model(self, content: Content, trial: TrialStatus) -> ExportedModel:
        """The best weights of a trial. Raises ModelError or CheckpointError where they are gone or damaged."""
        name = self._device
        if name is None:
            name = "cuda" if torch.cuda.is_available() and content.status.driver is None else "cpu"
        path = self._study.weights(trial.number)
        self._study.fetch(path)
        if not path.is_file():
            kept = content.plan.settings.keep_checkpoints
            raise RaytuneM2FError(f"its weights are gone (the study keeps those of the best {kept} trials)")
        state = read_portable(path)
        if not self._trust:
            refuse_untrusted(state["config"], str(path))
        config = Config.from_dict(state["config"], source=f"{relative(str(path))}")
        categories = Categories.from_dict(state["categories"], source=str(path))
        model: Any = (
            build_any_model(config) if isinstance(config, AnyModelConfig) else build_network(config, categories)
        )
        model.load_state_dict(state["model"])
        device = torch.device(name)
        return ExportedModel(model.to(device).eval(), config, categories, device)


def _likely(instances: Instances) -> Instances:
    """Those that may be drawn: the masks of all queries would take much memory."""
    kept = instances.scores >= SURE_ENOUGH[-1]
    return Instances(
        scores=instances.scores[kept],
        labels=instances.labels[kept],
        masks=instances.masks[kept],
        queries=instances.queries[kept],
        subprobs={name: probabilities[kept] for name, probabilities in instances.subprobs.items()},
    )


def spread(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """At most `count` records, evenly spread over all of them; the same each time."""
    if count >= len(records):
        return list(records)
    return [records[place * len(records) // count] for place in range(count)]


def _title(content: Content, trial: TrialStatus) -> str:
    own = content.own is not None and trial.number == content.own.number
    score = "no score" if trial.best is None else f"{trial.best:.1f}"
    return f"trial {trial.number}{', own values' if own else ''}: {score}"


def _shrunk(pixels: Pixels) -> Pixels:
    """The image at the size of its picture."""
    image = Image.fromarray(pixels)
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    if scale == 1.0:
        return pixels
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _resized(instances: Instances, pixels: Pixels) -> Instances:
    """The instances with masks at the size of a picture."""
    height, width = pixels.shape[:2]
    if tuple(instances.masks.shape[-2:]) == (height, width):
        return instances
    masks = torch.zeros(len(instances.masks), height, width, dtype=torch.bool)
    for small, mask in zip(masks, instances.masks, strict=True):
        image = Image.fromarray(mask.numpy().astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
        small[:] = torch.from_numpy(np.asarray(image) >= 128)
    return replace(instances, masks=masks)


def _threshold(images: Sequence[tuple[ImageRecord, Pixels]], found: Sequence[Instances]) -> float:
    """See SURE_ENOUGH."""
    there = sum(len(record.instances) for record, _ in images)
    for threshold in SURE_ENOUGH:
        if sum(int((instances.scores >= threshold).sum()) for instances in found) >= there / 2:
            return threshold
    return SURE_ENOUGH[-1]


def _picture(
    title: str, pixels: Pixels, instances: Instances, categories: Categories, threshold: float, *, scores: bool = True
) -> Picture:
    drawn = draw_instances(
        pixels, instances, categories, score_threshold=threshold, short_side=SHORT_SIDE, show_scores=scores
    )
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, format="WEBP", quality=QUALITY)
    labels = instances.labels[instances.scores >= threshold].tolist()
    counts = Counter(categories.names[label] for label in labels)
    listed = ", ".join(f"{number} {name}" for name, number in counts.most_common()) or "none"
    words = f"{title}: {len(labels)} instances ({listed})" if labels else f"{title}: no instance"
    return Picture(title, words, "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode())
