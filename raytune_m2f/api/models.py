"""`export_model` and `load_model`: a model on disk, what it predicts, by name, and its scores on a dataset.

Shapes: N instances of an image of H x W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from raytune_m2f.api.training import PathOrAddress, WorkProgress
from raytune_m2f.config.load import Overrides
from raytune_m2f.errors import DatasetError, InputError, did_you_mean
from raytune_m2f.progress import Progress, as_context, line_progress, print_to_stderr, still
from raytune_m2f.storage.files import require_free, require_new, sealed_json, write_atomically

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from raytune_m2f.data import Categories
    from raytune_m2f.data.masks import Rle
    from raytune_m2f.evaluation import CocoEvaluator
    from raytune_m2f.export import ExportedModel
    from raytune_m2f.export_card import Origin
    from raytune_m2f.export_check import Check
    from raytune_m2f.model import PackedInstances
    from raytune_m2f.predict.pipeline import OnImage
    from raytune_m2f.scores import Scores
    from raytune_m2f.study.directory import StudyDirectory
    from raytune_m2f.study.status import StudyStatus, TrialStatus

log = logging.getLogger(__name__)

NATIVE = "native"
"""The format of an export that is read here again."""


class Label(NamedTuple):
    """The most probable class of a subcategory head, and its probability."""

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Instance:
    """One predicted instance.

    Attributes:
        mask: (H, W) bool, at the size of the image.
        box: (4,) float32, x0, y0, x1, y1 of the mask [pixels].
        subcategories: for each subcategory head its label.
    """

    category: str
    score: float
    subcategories: dict[str, Label]
    box: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]

    def __repr__(self) -> str:
        height, width = self.mask.shape
        heads = "".join(f", {head}: {name} {p:.2f}" for head, (name, p) in self.subcategories.items())
        box = " ".join(f"{side:.0f}" for side in self.box)
        pixels = f"{np.count_nonzero(self.mask)} of {width} x {height} pixels"
        return f"Instance({self.category} {self.score:.2f}{heads}, box {box}, mask of {pixels})"


@dataclass(frozen=True, eq=False)
class Prediction(Sequence[Instance]):
    """The instances of one image, the best first; also a sequence of them.

    Attributes:
        masks: (N, H, W) bool, at the size of the image.
        boxes: (N, 4) float32, x0, y0, x1, y1 of each mask [pixels].
        scores: (N,) float32, class probability times mask quality.
        categories: name of each instance's main category.
        subcategories: for each subcategory head the label of each instance.
    """

    masks: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    categories: list[str]
    subcategories: dict[str, list[Label]]

    def __len__(self) -> int:
        return len(self.categories)

    @overload
    def __getitem__(self, index: int) -> Instance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Instance]: ...
    def __getitem__(self, index: int | slice) -> Instance | list[Instance]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        labels = {head: labels[index] for head, labels in self.subcategories.items()}
        return Instance(self.categories[index], float(self.scores[index]), labels, self.boxes[index], self.masks[index])

    def __repr__(self) -> str:
        height, width = self.masks.shape[1:]
        names = [f"{name} {score:.2f}" for name, score in zip(self.categories, self.scores, strict=True)]
        shown = f": {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}" if names else ""
        return f"Prediction({len(self)} instances in {width} x {height} pixels{shown})"


class Exported(NamedTuple):
    """The run (a trial's directory, or that of a training), and the report of the exported checkpoint."""

    run: str
    report: dict[str, Any]


def export_model(
    source: PathOrAddress,
    output: PathOrAddress,
    *,
    trial: int | None = None,
    iteration: int | None = None,
    format: str = NATIVE,
    skip_verify: bool = False,
    trust: bool = False,
    progress: WorkProgress = None,
) -> Exported:
    """Export a checkpoint as a directory that is enough to evaluate and predict, here or on another machine.

    Before any file is in its place, a fresh process loads them and evaluates them on the test set that scored the
    trial: an export that scores otherwise is refused.

    Args:
        source: a study, or the output directory of `train`.
        output: the directory to make; an export that is there already is replaced.
        trial: of a study; None: the best.
        iteration: the checkpoint of this iteration; None: the best.
        format: "native", which `load_model` reads, or one of `raytune_m2f.formats.FORMATS`.
        skip_verify: do not evaluate it again, where the test set is not at hand; the model card says so.
        trust: whether Python files that its configuration names (DATASETS.IMPORT) may run.
        progress: told how many test images are evaluated; None prints lines to stderr.

    Raises:
        StudyError: there is no such trial, or none with weights.
        ModelError: there is no such checkpoint, or `output` holds what is no export, or another format's.
        CheckpointError: the checkpoint is damaged; the message offers others.
        VerificationError: the export does not score what the trial reported; nothing is left in `output`.
        InputError: there is no such format, the test set cannot be read, or Python files are not trusted.
    """
    from raytune_m2f.study.directory import StudyDirectory
    from raytune_m2f.study.lines import nothing_found
    from raytune_m2f.study.status import study_status

    write = _writer(format)
    study, run = StudyDirectory.at(source), os.fspath(source)
    chosen: TrialStatus | None = None
    if study.is_laid_out:
        status = study_status(study)
        chosen = status.trial_to_export(trial)
        run = chosen.directory
        if trial is None and (words := nothing_found(status)) is not None:
            log.warning("%s", words)
    elif trial is not None:
        raise InputError(f"--trial {trial}: {source} is no study, it has no trials")
    from raytune_m2f.export import export_run  # with torch: only now that there is something to export

    log.info("exporting %s to %s", run, output)
    check = None
    with ExitStack() as stack:
        if skip_verify:
            log.warning("nobody evaluates the export again (--skip-verify), which its model card says")
            stack.enter_context(still(log, "exporting"))
        else:
            told = stack.enter_context(as_context(progress or line_progress("verifying", print_to_stderr, "image")))
            check = _check(study, chosen, trust, told)
        report = export_run(
            run,
            Path(output),
            iteration=iteration,
            origin=None if chosen is None else _origin(study, status, chosen),
            verify=check,
            write=write,
            trust=trust,
            others=None if chosen is None else partial(_next_best, study, run),
        )
    return Exported(run, report)


def _writer(format: str) -> Callable[[ExportedModel, Path], None] | None:
    """What writes a format; None for our own. Raises InputError if there is no such format."""
    from raytune_m2f import formats

    if format == NATIVE:
        return None
    if format not in formats.FORMATS:
        known = (NATIVE, *formats.FORMATS)
        raise InputError(f"--format {format}: allowed are {', '.join(known)}{did_you_mean(format, known)}.")
    return partial(formats.write, format)


def _check(study: StudyDirectory, trial: TrialStatus | None, trust: bool, progress: Progress) -> Check:
    """What the export of a trial is held against, or that of a training without a study."""
    from raytune_m2f.export_check import Check
    from raytune_m2f.study.plan import StudyPlan, compare_data

    if trial is None:
        return Check((), {}, trust, progress)
    plan = StudyPlan.load(study.plan_file, only_shown=True)
    recorded = {} if trial.best is None or trial.best_iteration is None else {trial.best_iteration: trial.best}
    reasons = partial(compare_data, plan.config, plan.data, str(study))
    return Check(plan.settings.objectives, recorded, trust, progress, reasons)


def _origin(study: StudyDirectory, status: StudyStatus, trial: TrialStatus) -> Origin:
    """What a model card says of a trial and its study."""
    from raytune_m2f.export_card import Origin
    from raytune_m2f.study.lines import FOOTNOTES, score_text
    from raytune_m2f.study.plan import StudyPlan

    plan = StudyPlan.load(study.plan_file, only_shown=True)
    settings = plan.settings
    close = [str(other.number) for other in status.within_noise()] if trial.number == status.best else []
    why = FOOTNOTES.get(trial.origin or "", "")[2:]
    said = {
        "study": str(study),
        "begun": plan.created,
        "maximised": ", ".join(settings.metrics),
        "constraints": ", ".join(settings.constraints),
        "search": f"sampler {settings.sampler}, early stopping {settings.early_stopping.method}",
        "seed of the search": str(settings.seed),
        "trials": ", ".join(f"{count} {state}" for state, count in status.counts.items()),
        "trial": f"{trial.number}{', the best' if trial.number == status.best else ''} ({trial.state})",
        "why it was tried": why,
        f"its {status.metric}": f"{score_text(trial.best)} at iteration {trial.best_iteration}",
        "within the noise of it": f"trial {', '.join(close)}" if close else "",
    }
    return Origin(trial.directory, {what: text for what, text in said.items() if text}, trial.values, plan.data)


def _next_best(study: StudyDirectory, run: str) -> Iterator[str]:
    """What can be exported in place of a trial whose weights are damaged; those on a store are not read."""
    from raytune_m2f.export_files import is_whole
    from raytune_m2f.study.status import study_status

    others = [trial for trial in study_status(study).ranked() if trial.directory != run]
    for trial in islice((trial for trial in others if is_whole(str(trial.checkpoint))), 1):
        yield f"The next best trial whose weights are whole is {trial.number}: export it by `--trial {trial.number}`."


def load_model(folder: PathOrAddress, *, device: str | None = None, trust: bool = False) -> LoadedModel:
    """Load an exported model from its directory alone.

    Args:
        device: such as "cpu" or "cuda:1"; by default the GPU if there is one.
        trust: whether Python files that its configuration names (DATASETS.IMPORT) may run.

    Raises:
        ModelError: a file is missing or does not fit the others.
        ConfigError: the configuration is wrong, or names Python files and is not trusted.
        InputError: there is no such device.
    """
    log.info("loading the model %s", folder)
    from raytune_m2f.export import load_export

    exported = load_export(Path(folder), None if device is None else _device_of(device), trust=trust)
    log.info("on %s", exported.device)
    return LoadedModel(Path(folder), exported)


def _device_of(name: str) -> torch.device:
    """Raises InputError where torch knows no such device, or this machine has none."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count())) or "no GPU is seen"
        raise InputError(f"--device: got {name!r}, allowed: cpu, or a GPU of this machine ({gpus})") from error
    if device.type == "meta":
        raise InputError(f"--device: got {name!r}, which computes nothing; allowed: cpu, cuda, cuda:0 ...")
    return device


@dataclass(frozen=True)
class LoadedModel:
    """An exported model, ready to predict."""

    folder: Path
    exported: ExportedModel

    @property
    def categories(self) -> Categories:
        """The names of the main categories and of every subcategory head's classes."""
        return self.exported.categories

    @property
    def max_detections(self) -> int:
        """TEST.DETECTIONS_PER_IMAGE: instances kept of an image, and counted by COCO's evaluation (its maxDets)."""
        return self.exported.config.TEST.DETECTIONS_PER_IMAGE

    def __repr__(self) -> str:
        heads = "".join(f", {head}: {'/'.join(names)}" for head, names in self.categories.subcategories.items())
        names = "/".join(self.categories.names)
        return f"LoadedModel({str(self.folder)!r} on {self.exported.device}, categories: {names}{heads})"

    def predict(
        self,
        image: PathOrAddress | Image | npt.NDArray[np.uint8],
        *,
        min_score: float = 0.5,
        score_threshold: float | None = None,
        max_megapixels: float | None = None,
    ) -> Prediction:
        """The instances of one image.

        Args:
            image: a file, an image of PIL, or (H, W, 3) uint8 in RGB.
            min_score: instances below it are left out, as are those without a pixel.
            score_threshold: an earlier name of `min_score`.
            max_megapixels: a larger file is refused; see `read_image`.

        Raises:
            InputError: an array of another shape or type.
            DatasetError: the file is missing or damaged, or its values cannot be read as 8-bit RGB.
            ModelError: the network predicts no masks.
        """
        pixels = _pixels_of(image, max_megapixels)
        least = min_score if score_threshold is None else score_threshold
        return _prediction(self.exported.predict_encoded(pixels), pixels.shape[:2], self.categories, least)

    def predict_files(
        self,
        images: Sequence[PathOrAddress],
        output: PathOrAddress | None = None,
        *,
        min_score: float = 0.5,
        score_threshold: float | None = None,
        overrides: Overrides = (),
        batch: int | None = None,
        max_megapixels: float | None = None,
        on_image: OnImage | None = None,
        progress: WorkProgress = None,
    ) -> dict[str, Any]:
        """Predict image files: an overlay PNG for each, and all instances in one COCO JSON, which is returned.

        Args:
            images: files, folders and patterns such as "photos/**/*.jpg".
            output: directory for the pictures, instances.json and results.json; None: nothing is written.
            min_score: instances below it are left out.
            score_threshold: an earlier name of `min_score`.
            overrides: other values of the keys that predictions depend on: `["KEY=VALUE", ...]` or `{"KEY": value}`,
                such as the sieves, MODEL.MASK_FORMER.TEST.
            batch: images that the network takes at once; by default TEST.IMS_PER_BATCH of the model.
            max_megapixels: larger images are refused; see `read_image`.
            on_image: called with each image's instances, by names, as soon as it is done.

        See `raytune_m2f.predict.predict_files`, also for what is raised.
        """
        from raytune_m2f.predict import predict_files, with_overrides

        exported = with_overrides(self.exported, overrides, batch=batch)
        written = f"; pictures and instances.json: {output}" if output is not None else ""
        log.info("predicting with %s%s", self.folder, written)
        with as_context(progress or line_progress("predicting", print_to_stderr, "image")) as told:
            return predict_files(
                exported,
                [Path(image) for image in images],
                None if output is None else Path(output),
                min_score=min_score if score_threshold is None else score_threshold,
                max_megapixels=max_megapixels,
                on_image=on_image or (lambda line: None),
                progress=_drop_name(told),
            )

    def evaluate(
        self,
        annotations: PathOrAddress,
        images: PathOrAddress,
        *,
        against: LoadedModel | PathOrAddress | None = None,
        compare_rankings: bool = False,
        output: PathOrAddress | None = None,
        predictions: PathOrAddress | None = None,
        max_megapixels: float | None = None,
        progress: WorkProgress = None,
    ) -> Scores:
        """Score the model on a dataset.

        Args:
            annotations, images: a COCO file with the labels that the model knows, and the folder of its images.
            against: another model, which is scored on the same images and compared.
            compare_rankings: whether every MODEL.MASK_FORMER.TEST.RANKING is scored too, without a sieve, with each
                sieve and with all.
            output: file for all that is measured (JSON); one of ours is replaced.
            predictions: new file for all detections: COCO's results (JSON).
            max_megapixels: larger images are refused; see `read_image`.

        Returns:
            every metric by its name: "segm/AP", "segm/AP_all", "<head>/accuracy" ...; NaN where there is no ground
            truth; and how sure they are.

        Raises:
            InputError: a file of the user's would be written over; see `require_result_files`.
            DatasetError: the annotations are wrong or have other categories, or images cannot be read.
            ModelError: there is no other model, or the network is one of detectron2's and has no rankings.
        """
        from raytune_m2f.evaluation import results_to_json
        from raytune_m2f.predict import evaluate_export
        from raytune_m2f.rankings import compare_rankings as compare
        from raytune_m2f.scores import Scores

        require_result_files(output, predictions)
        other = against if isinstance(against, LoadedModel | None) else load_model(against)
        models = [self] if other is None else [self, other]
        found: list[CocoEvaluator] = []
        rankings = None
        with as_context(progress or line_progress("evaluating", print_to_stderr, "image")) as told:
            for number, model in enumerate(models):
                log.info("evaluating %s on %s", model.folder, annotations)
                part: Progress = partial(_tell_part, told, number, len(models))
                settings: dict[str, Any] = {"max_megapixels": max_megapixels, "progress": _drop_name(part)}
                if compare_rankings and number == 0:
                    evaluator, rankings = compare(model.exported, Path(annotations), Path(images), **settings)
                else:
                    evaluator = evaluate_export(model.exported, Path(annotations), Path(images), **settings)
                found.append(evaluator)
        with still(log, "scoring"):
            for evaluator in found:
                evaluator.evaluate()
            beside = None if other is None else (str(other.folder), found[1].evaluation)
            gains = found[0].error_gains()
            scores = Scores(found[0].evaluation, error_gains=gains, against=beside, rankings=rankings)
        if predictions is not None:
            results_to_json(found[0].results, Path(predictions))
        if output is not None:
            write_atomically(Path(output), sealed_json(scores.as_dict(), indent=2))
        return scores


def require_result_files(output: PathOrAddress | None, predictions: PathOrAddress | None) -> None:
    """Make sure, before the work, that the files of `LoadedModel.evaluate` can be written; their folders are made.

    Raises:
        InputError: they are the same, or a file of the user's would be written over.
        OSError: a folder cannot be made.
    """
    if output is not None:
        require_free(Path(output), "--output")
    if predictions is not None:
        require_new(Path(predictions), "--predictions")
    if output is not None and predictions is not None and Path(output).resolve() == Path(predictions).resolve():
        raise InputError(f"--output and --predictions are the same file, {output}: give two.")
    for file in (output, predictions):
        Path(file or ".").parent.mkdir(parents=True, exist_ok=True)


def _tell_part(progress: Progress, number: int, parts: int, done: int, total: int, /) -> None:
    """Tell how far all parts of some work are, each as long as the others, by how far part `number` is."""
    progress(number * total + done, parts * total)


def _drop_name(progress: Progress) -> Callable[[int, int, str], None]:
    return lambda done, total, name: progress(done, total)


def _pixels_of(image: Any, max_megapixels: float | None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    from PIL.Image import Image

    from raytune_m2f.data.images import read_image, rgb_pixels

    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), max_megapixels=max_megapixels)
    if isinstance(image, Image):
        try:
            return rgb_pixels(image.copy())
        except ValueError as error:
            raise DatasetError(f"the image cannot be used: {error}") from error
    allowed = "allowed: the path of an image file, an image of PIL, or an array (H, W, 3) uint8 in RGB, 0 to 255"
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image to predict: got {type(image).__name__}; {allowed}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"an image to predict: got an array {image.shape} {image.dtype}; {allowed}")
    return np.ascontiguousarray(image)


def _prediction(
    found: PackedInstances[Rle], size: tuple[int, ...], categories: Categories, min_score: float
) -> Prediction:
    from raytune_m2f.data.masks import decode

    scores = found.scores.cpu().numpy()
    kept = np.flatnonzero(scores >= min_score)
    masks = decode([found.masks[i] for i in kept], *size).astype(bool)
    seen = masks.any(axis=(1, 2))
    kept, masks = kept[seen], masks[seen]
    labels = found.labels.cpu().numpy()[kept]
    heads = {head: probabilities.cpu().numpy()[kept] for head, probabilities in found.subprobs.items()}
    return Prediction(
        masks=masks,
        boxes=np.array([_box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
        scores=scores[kept],
        categories=[categories.names[label] for label in labels],
        subcategories={head: _most_probable(p, categories.subcategories[head]) for head, p in heads.items()},
    )


def _most_probable(probabilities: npt.NDArray[np.float32], names: Sequence[str]) -> list[Label]:
    """Of (N, C) probabilities the class of each row."""
    return [Label(names[row.argmax()], float(row.max())) for row in probabilities]


def _box_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask that has a pixel; x1 and y1 lie behind the last one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
