"""Real learning curves of many points of a search space: a table on which methods of search are compared in minutes.

    python -m benchmarks.curves make shapes --output DIR [--processes 2] [--device cpu] [--seconds 3600]
    python -m benchmarks.curves make nuclei --output DIR ...      # needs RAYTUNE_M2F_DATA
    python -m benchmarks.curves collect shapes --output DIR [--also SOURCE ...]   # benchmarks/tables/shapes.json

`shapes` are the demo's synthetic shapes and its configuration, trained for 240 iterations; `nuclei` fine-tunes the
pretrained small backbone on windows of 128 pixels of cell nuclei with the small-data configuration, 120 iterations.
The points are a scrambled Sobol sequence, and the configuration's own values; some of them are trained again under two
more seeds, which is the noise. Each training is scored eight times, on validation images and on test images that
nothing is chosen by.

Each training is a file of its own, DIR/points/POINT-SEED.json, written when it is done: what is there is not trained
again, and folders of several machines may be thrown together. `collect` makes one small file of them all. `--also`
names more folders of points, or a collected table, whose trainings are there too: a table without its folder goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from scipy.stats import qmc

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import CocoDataset, generate_shapes
from raytune_m2f.data.coco import load_coco
from raytune_m2f.data.dataset import TrainDataset
from raytune_m2f.data.images import read_record
from raytune_m2f.engines import build_engine
from raytune_m2f.engines.datasets import NativeEngine
from raytune_m2f.errors import NonFiniteLossError
from raytune_m2f.evaluation.evaluator import CocoEvaluator
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.step import LossMeans, Stepper

TABLES = Path(__file__).parent / "tables"
CONFIG = -1
"""The number of the point that the configuration itself is."""
REPEATED, SEEDS = 40, (0, 1, 2)
"""The first points are trained under all seeds, the others under the first."""
VAL_LOSS_IMAGES = 24
SPLITS = ("train", "val", "test")
HEADS = {"shapes": ["color", "texture"], "nuclei": ["subcat_1", "subcat_2"]}
CROP, LEAST_AREA = 128, 12
"""Sides of the nuclei's windows, and the smallest part of a nucleus that is kept [pixels]."""
KEPT = ("AP", "test AP", "loss", "train")
"""Of each report, in a collected table: AP on validation and test images, the validation loss without weights, and the
mean training loss since the report before, with the weights of the trial."""
LOW = np.linspace(0.1, 0.45, 8)
"""IoU thresholds below COCO's."""
FORMER = "MODEL.MASK_FORMER"
LR = {"type": "loguniform", "low": 3.0e-5, "high": 1.0e-2}


@dataclass(frozen=True)
class Task:
    """What a table is of.

    Attributes:
        config: the name of the configuration that it builds on.
        overrides: what it changes.
        space: the keys that are searched.
        points: how many points the table has, beside the configuration's.
    """

    config: str
    overrides: tuple[str, ...]
    space: Mapping[str, Mapping[str, Any]]
    points: int


TASKS = {
    "shapes": Task(
        "demo",
        (
            "SOLVER.MAX_ITER=240", "SOLVER.IMS_PER_BATCH=4", "TEST.EVAL_PERIOD=30", "SOLVER.CHECKPOINT_PERIOD=240",
            "TEST.BOOTSTRAP=0",
        ),
        {
            "SOLVER.BASE_LR": LR,
            "SOLVER.IMS_PER_BATCH": {"type": "int", "low": 2, "high": 8, "log": True},
            "SOLVER.WEIGHT_DECAY": {"type": "loguniform", "low": 1.0e-3, "high": 1.0},
            f"{FORMER}.NUM_OBJECT_QUERIES": {"type": "int", "low": 4, "high": 40, "log": True},
            f"{FORMER}.CLASS_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 8.0},
            f"{FORMER}.SUBCATEGORY_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 16.0},
        },
        200,
    ),
    "nuclei": Task(
        "small_data",
        (
            "SOLVER.MAX_ITER=120", "SOLVER.WARMUP_ITERS=12", "TEST.EVAL_PERIOD=15", "SOLVER.CHECKPOINT_PERIOD=120",
            "TEST.BOOTSTRAP=0", "INPUT.IMAGE_SIZE=96", "INPUT.MIN_SIZE_TEST=128", "INPUT.MAX_SIZE_TEST=128",
            "TEST.IMS_PER_BATCH=4", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES=40", "TEST.DETECTIONS_PER_IMAGE=40",
        ),
        {
            "SOLVER.BASE_LR": LR,
            "SOLVER.IMS_PER_BATCH": {"type": "int", "low": 1, "high": 4, "log": True},
            "SOLVER.WEIGHT_DECAY": {"type": "loguniform", "low": 1.0e-3, "high": 1.0},
            "SOLVER.BACKBONE_MULTIPLIER": {"type": "loguniform", "low": 0.02, "high": 1.0},
            f"{FORMER}.CLASS_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 8.0},
            f"{FORMER}.MASK_WEIGHT": {"type": "loguniform", "low": 1.25, "high": 20.0},
        },
        100,
    ),
}  # fmt: skip


# Points


def space_of(task: Task) -> SearchSpace:
    """The search space of a table, as a study reads it."""
    return SearchSpace.from_dict(task.space, "table")


def points(task: Task) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and values of each point; the configuration's first."""
    yield CONFIG, {}
    sobol = qmc.Sobol(len(task.space), scramble=True, seed=0)
    rows = sobol.random_base2(math.ceil(math.log2(task.points)))[: task.points]
    for number, row in enumerate(rows):
        yield number, {key: value_at(line, float(u)) for (key, line), u in zip(task.space.items(), row, strict=True)}


def value_at(line: Mapping[str, Any], share: float) -> Any:
    """The value of a key at this share of its range, on a logarithmic scale."""
    low, high = line["low"], line["high"]
    if line["type"] == "int":
        low, high = low - 0.5, high + 0.5
        return min(max(round(low * (high / low) ** share), line["low"]), line["high"])
    return float(f"{low * (high / low) ** share:.4g}")


def wanted(task: Task) -> list[tuple[int, int, dict[str, Any]]]:
    """Every training of a table: the number of its point, its seed, its values; the most useful first."""
    every = list(points(task))
    first = [(number, SEEDS[0], values) for number, values in every]
    again = [(n, seed, values) for seed in SEEDS[1:] for n, values in every if n < REPEATED]
    return [*first, *again]


def missing(name: str, sources: Iterable[Path]) -> list[tuple[int, int, dict[str, Any]]]:
    """What is `wanted` of a table and in none of the sources, folders of points or collected tables."""
    there = {(row["point"], row["seed"]) for source in sources for row in rows_of(source)}
    return [one for one in wanted(TASKS[name]) if one[:2] not in there]


# One training


def data_of(name: str, output: Path) -> dict[str, tuple[Path, Path]]:
    """Annotations and images of "train", "val" and "test", made or divided where they are not there yet."""
    folder = output / "data"
    if name == "shapes":
        make_shapes(folder, seed=0)
        return {split: (folder / f"{split}.json", folder / split) for split in SPLITS}
    if not (folder / "test.json").exists():
        source = Path(os.environ["RAYTUNE_M2F_DATA"]) / "nuclei_dsb"
        given = {
            split: load_coco(split, source / f"annotations_{split}.json", source / split, HEADS["nuclei"])
            for split in ("train", "val")
        }
        order = np.random.default_rng(0).permutation(len(given["train"].records)).tolist()
        write_crops(given["train"], order[30:], folder / "train", crops=2)
        write_crops(given["val"], range(len(given["val"].records)), folder / "val", crops=1)
        write_crops(given["train"], order[:30], folder / "test", crops=1)
    return {split: (folder / f"{split}.json", folder / split) for split in SPLITS}


def make_shapes(folder: Path, seed: int) -> None:
    """The demo's shapes, and 200 more as test images; what is there stays."""
    if not (folder / "test.json").exists():
        generate_shapes(folder, seed=seed)
        generate_shapes(folder / "fresh", train_images=0, val_images=200, seed=10_000 + seed)
        (folder / "fresh" / "val").rename(folder / "test")
        (folder / "fresh" / "val.json").rename(folder / "test.json")


def write_crops(dataset: CocoDataset, chosen: Iterable[int], folder: Path, crops: int) -> None:
    """Windows of `CROP` pixels at the images' own scale, each with an instance: nuclei as they are, in small images."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in chosen:
        record, random = dataset.records[index], np.random.default_rng([1, index])
        picture = Image.fromarray(read_record(record))
        masks = [mask_utils.decode(a.rle(record.height, record.width)) for a in record.annotations]
        for _ in range(crops):
            windows = [
                (
                    int(random.integers(0, max(1, record.height - CROP))),
                    int(random.integers(0, max(1, record.width - CROP))),
                )
                for _ in range(8)
            ]
            parts = [[mask[y : y + CROP, x : x + CROP] for mask in masks] for y, x in windows]
            best = max(range(len(windows)), key=lambda n: sum(part.sum() >= LEAST_AREA for part in parts[n]))
            (y, x), number = windows[best], len(images) + 1
            crop = picture.crop((x, y, min(x + CROP, record.width), min(y + CROP, record.height)))
            crop.save(folder / f"{number:04d}.png")
            images.append({"id": number, "file_name": f"{number:04d}.png", "width": crop.width, "height": crop.height})
            for annotation, part in zip(record.annotations, parts[best], strict=True):
                if part.sum() >= LEAST_AREA:
                    rle = mask_utils.encode(np.asfortranarray(part))
                    annotations.append({
                        "id": len(annotations) + 1, "image_id": number, "iscrowd": int(annotation.iscrowd),
                        "category_id": dataset.categories.ids[annotation.label],
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                        "area": float(part.sum()), "bbox": mask_utils.toBbox(rle).tolist(), **annotation.sublabels,
                    })  # fmt: skip
    heads = dataset.categories.subcategories
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": n} for i, n in zip(dataset.categories.ids, dataset.categories.names, strict=True)
        ],
        "subcategories": {head: list(names) for head, names in heads.items()},
    }
    write_atomically(folder.with_suffix(".json"), json.dumps(content))


def config_of(name: str, output: Path, values: Mapping[str, Any], seed: int) -> Config:
    """The configuration of one training."""
    task, data = TASKS[name], data_of(name, output)
    registered = {
        f"table_{split}": {"annotations": str(file), "images": str(images)} for split, (file, images) in data.items()
    }
    words = [
        *task.overrides,
        f"DATASETS.REGISTER={json.dumps(registered)}",
        "DATASETS.TRAIN=[table_train]",
        "DATASETS.TEST=[table_val]",
        f"DATASETS.SUBCATEGORIES={json.dumps(HEADS[name])}",
    ]
    return load_config(task.config, words).with_values({**values, "SEED": seed})


def train_point(name: str, output: Path, values: Mapping[str, Any], seed: int, device: torch.device) -> dict[str, Any]:
    """Train one point as a trial does, and score it at each report on validation and test images."""
    config = config_of(name, output, values, seed)
    torch.manual_seed(config.SEED)
    engine = build_engine(config)
    assert isinstance(engine, NativeEngine)
    file, images = data_of(name, output)["test"]
    test = load_coco("table_test", file, images, config.DATASETS.SUBCATEGORIES)
    learner = engine.learner()
    learner.model.to(device)
    stepper = Stepper.build(config, learner, TrialContext(output / "unused", device=device))
    learner.load_weights(config.MODEL.WEIGHTS)
    scored = {"val": engine.datasets.test, "test": test}
    evaluators = {split: engine.evaluator_of(dataset) for split, dataset in scored.items()}
    means, reports, weights = LossMeans(), [], weights_of(learner, engine)
    started = time.monotonic()
    for iteration, samples in enumerate(engine.train_batches(rank=0, world_size=1, start_iteration=0), 1):
        losses = stepper.step(samples, iteration - 1)
        means.add({"loss": losses["loss"], "plain": sum(losses[name] / weight for name, weight in weights.items())})
        if iteration % config.TEST.EVAL_PERIOD == 0:
            with stepper.evaluated(), torch.no_grad():
                learner.model.eval()
                scores = {
                    split: scores_of(engine, learner, scored[split], evaluators[split], dense=split == "val")
                    for split in scored
                }
                loss = validation_loss(engine, learner, device)
            report = {"iteration": iteration, **scores["val"], "loss": loss}
            mean = means.take()
            report |= {"train": mean["loss"], "train_plain": mean["plain"]}
            reports.append({**report, **{f"test {key}": value for key, value in scores["test"].items()}})
    return {"seconds": round(time.monotonic() - started, 1), "reports": reports}


def scores_of(
    engine: NativeEngine, learner: Any, dataset: CocoDataset, evaluator: CocoEvaluator, *, dense: bool
) -> dict[str, float]:
    """AP over all heads and without, and with `dense` what may rise before it does."""
    samples, size = engine.test_samples(dataset), engine.config.TEST.IMS_PER_BATCH
    evaluator.reset()
    for start in range(0, len(samples), size):
        batch = [samples[i] for i in range(start, min(start + size, len(samples)))]
        evaluator.process(batch, [found.to("cpu") for found in learner.predict(batch)])
    metrics = evaluator.evaluate()
    found = {"AP": metrics["segm/AP"], "AP_all": metrics["segm/AP_all"]}
    if dense:
        found |= {
            "AP50": metrics["segm/AP50"],
            "AR": metrics[f"segm/AR{engine.config.TEST.DETECTIONS_PER_IMAGE}"],
            "AP_low": low_ap(evaluator),
            "IoU": 0.0,
        }
        found["IoU"] = best_iou(evaluator)
    return found


def low_ap(evaluator: CocoEvaluator) -> float:
    """AP at the IoU thresholds `LOW`, in percent."""
    import hotcoco

    truth = evaluator._scorer.ground_truth
    results = evaluator.results
    if not results:
        return 0.0
    images, categories = truth.dataset["image_numbers"], truth.dataset["category_numbers"]
    columns = np.zeros((len(results), 7))
    columns[:, 0] = [images[result["image_id"]] for result in results]
    columns[:, 5] = [result["score"] for result in results]
    columns[:, 6] = [categories[result["category_id"]] for result in results]
    detections = truth.hotcoco.load_res(columns, segmentation=[result["segmentation"] for result in results])
    evaluation = hotcoco.COCOeval(truth.hotcoco, detections, "segm")
    evaluation.params.iou_thrs = LOW.tolist()
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    return 100.0 * float(precision[precision > -1].mean())


def best_iou(evaluator: CocoEvaluator) -> float:
    """The mean over annotations of the largest IoU of a detection of their category, in percent."""
    found: dict[tuple[int, int], list[Any]] = defaultdict(list)
    truth = evaluator._scorer.ground_truth.dataset
    for result in evaluator.results:
        found[truth["image_numbers"][result["image_id"]], truth["category_numbers"][result["category_id"]]].append(
            result["segmentation"]
        )
    there: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for entry in truth["annotations"]:
        there[entry["image_id"], entry["category_id"]].append(entry["segmentation"])
    best = [
        mask_utils.iou(found[place], shapes, [0] * len(shapes)).max(0) if found[place] else np.zeros(len(shapes))
        for place, shapes in there.items()
    ]
    return 100.0 * float(np.concatenate(best).mean())


def weights_of(learner: Any, engine: NativeEngine) -> dict[str, float]:
    """The weight of each term of the loss that a trial may search."""
    former = learner.config.MODEL.MASK_FORMER
    weights = {"loss_ce": former.CLASS_WEIGHT, "loss_mask": former.MASK_WEIGHT, "loss_dice": former.DICE_WEIGHT}
    return weights | {f"loss_{head}": former.SUBCATEGORY_WEIGHT for head in engine.categories.subcategories}


def validation_loss(engine: NativeEngine, learner: Any, device: torch.device) -> float:
    """The loss of the first validation images, each term without its weight."""
    settings = engine.config.INPUT
    samples = TrainDataset(
        engine.datasets.test,
        image_size=settings.IMAGE_SIZE,
        min_scale=1.0,
        max_scale=1.0,
        flip="none",
        seed=0,
        filter_empty=True,
    )
    weights = weights_of(learner, engine)
    total, batches = 0.0, 0
    for start in range(0, min(VAL_LOSS_IMAGES, len(samples)), 4):
        batch = [samples[i, i] for i in range(start, min(start + 4, len(samples)))]
        _, terms = learner.losses(learner.model, batch, learner.count(batch).to(device), nullcontext(), (0, 0, 0))
        # each term without the weight that the trial searches: trials have to be compared
        total += sum(float(terms[name]) / weight for name, weight in weights.items())
        batches += 1
    return total / batches


# All of them


def rows_of(source: Path) -> Iterator[dict[str, Any]]:
    """The trainings of a folder of points or of a collected table: "point", "seed", "values", "reports"."""
    if source.is_dir():
        yield from (json.loads(file.read_text(encoding="utf-8")) for file in sorted(source.glob("*.json")))
        return
    table = json.loads(source.read_text(encoding="utf-8"))
    for row in table["trainings"]:
        reports = [
            {"iteration": iteration, **dict(zip(table["columns"], numbers, strict=True))}
            for iteration, numbers in zip(table["iterations"], row["reports"], strict=False)
        ]
        values = dict(zip(table["space"], row["values"], strict=False))  # none of the configuration's
        yield {**row, "values": values, "reports": reports}


def collect(name: str, sources: Iterable[Path], file: Path) -> int:
    """Write what folders hold into one file, numbers rounded; returns how many trainings."""
    found = {(row["point"], row["seed"]): row for source in sources for row in rows_of(source)}
    rows = [row for _, row in sorted(found.items())]
    task = TASKS[name]
    trainings = [
        {
            "point": row["point"],
            "seed": row["seed"],
            "values": list(row["values"].values()),
            "device": row["device"],
            "seconds": row.get("seconds"),
            **({"failure": row["failure"]} if "failure" in row else {}),
            "reports": [[float(f"{report[column]:.4g}") for column in KEPT] for report in row["reports"]],
        }
        for row in rows
    ]
    head = {
        "task": name,
        "collected": time.strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks.curves make {name}",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "scipy")},
        "config": task.config,
        "overrides": task.overrides,
        "space": task.space,
        "iterations": [report["iteration"] for report in rows[0]["reports"]],
        "columns": KEPT,
    }
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in trainings)
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, f'{json.dumps(head)[:-1]}, "trainings": [\n{lines}\n]}}\n')
    return len(rows)


def work(name: str, output: Path, device: str, queue: Any, until: float) -> None:
    """Train what the queue holds, until it is empty or the time is over."""
    torch.set_num_threads(1)
    while time.time() < until:
        try:
            number, seed, values = queue.get_nowait()
        except Empty:
            return
        file = output / "points" / f"{number}-{seed}.json"
        if file.exists():
            continue
        try:
            result = train_point(name, output, values, seed, torch.device(device))
        except NonFiniteLossError as error:  # a diverged training is a point of the table too
            result = {"failure": f"{type(error).__name__}: {error}"[:200], "reports": []}
        place = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        write_atomically(
            file,
            json.dumps(
                {"point": number, "seed": seed, "values": values, "device": place, "torch": torch.__version__, **result}
            ),
        )
        print(f"{number}-{seed}: {result.get('seconds', result.get('failure'))}", flush=True)


def make(
    name: str, output: Path, also: Sequence[Path], device: str, processes: int, seconds: float, last_first: bool
) -> None:
    """Train what is not there yet."""
    (output / "points").mkdir(parents=True, exist_ok=True)
    data_of(name, output)
    todo = missing(name, [*also, output / "points"])
    print(f"{len(todo)} trainings to do", flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        for one in reversed(todo) if last_first else todo:
            queue.put(one)
        until = time.time() + seconds
        workers = [context.Process(target=work, args=(name, output, device, queue, until)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "collect"])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no training begins later")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="more folders of points, or a collected table")
    parser.add_argument("--last-first", action="store_true", help="for a second machine: begin at the other end")
    arguments = parser.parse_args(words)
    if arguments.what == "make":
        make(
            arguments.task, arguments.output, arguments.also, arguments.device, arguments.processes,
            arguments.seconds, arguments.last_first,
        )  # fmt: skip
    else:
        file = TABLES / f"{arguments.task}.json"
        count = collect(arguments.task, [*arguments.also, arguments.output / "points"], file)
        print(f"{file}: {count} trainings, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
