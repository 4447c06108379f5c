"""What a stranger gets on a small data set: train, export, predict, score. Each figure by one command.

    export RAYTUNE_M2F_DATA=...         # holds fruits_nuts, nuclei_dsb
    python -m benchmarks.real SET [--seeds 0 1 2] [--iters N] [--learned] [--baseline] [KEY=VALUE ...]

SET is fruits_nuts, nuclei_dsb, shapes (generated), or a folder with train/, val/, annotations_train.json and
annotations_val.json, whose `subcategories` are the heads. The configuration builds on --config and says nothing but
where the data are; KEY=VALUE and --iters change it further. In OUTPUT/SET are for each seed the run, the exported model
(of the best checkpoint), its predictions on all of val and result.json; for all seeds results.jsonl (a line each),
table.md and sheet.png. A seed that is there already is read, not run.

AP and AP50 are pycocotools' own, from the annotation file and the predictions; our evaluator has to agree. Their
standard error and interval (95 %) are of the bootstrap over images: how far they would move with other images of the
kind. A head is judged on the objects that were found (mask IoU of 0.5); beside it stands the majority class. --baseline
adds a threshold with seeds and watershed (threshold.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import raytune_m2f as rm
from benchmarks.threshold import threshold_results
from raytune_m2f.data import Categories, CocoDataset, ImageRecord, generate_shapes, load_coco, read_image
from raytune_m2f.data.masks import decode
from raytune_m2f.evaluation import Result, evaluate_results, results_to_json
from raytune_m2f.evaluation.bootstrap import intervals
from raytune_m2f.evaluation.subcategories import HeadEvaluation
from raytune_m2f.model import UNKNOWN, Instances
from raytune_m2f.training.reports import read_reports
from raytune_m2f.visualize import Picture, contact_sheet, draw_instances, ground_truth_instances

REPOSITORY = Path(__file__).parents[1]
LEARNED = ["MODEL.MASK_FORMER.QUERY_SELECTION=none", "MODEL.MASK_FORMER.MASK_PRIOR=false"]
"""The control: learnable queries, all else the same."""
DRAWS = 500
LARGEST_PICTURE = 300_000  # bytes
Figures = dict[str, float | None]


@dataclass(frozen=True)
class DataSet:
    """Annotation file and image folder of both splits."""

    name: str
    files: dict[str, tuple[Path, Path]]

    @cached_property
    def heads(self) -> list[str]:
        return list(json.loads(self.files["train"][0].read_bytes()).get("subcategories", {}))

    def read(self, split: str) -> CocoDataset:
        return load_coco(split, *self.files[split], self.heads)

    def config(self, base: str) -> dict[str, Any]:
        register = {
            f"{self.name}_{split}": {"annotations": str(annotations), "images": str(images)}
            for split, (annotations, images) in self.files.items()
        }
        datasets = {"TRAIN": [f"{self.name}_train"], "TEST": [f"{self.name}_val"], "SUBCATEGORIES": self.heads}
        shipped = base if not Path(base).exists() else str(Path(base).resolve())
        return {"_BASE_": shipped, "DATASETS": {**datasets, "REGISTER": register}}


def find_set(name: str, output: Path) -> DataSet:
    """A set by name, or a folder. Raises FileNotFoundError, naming the file, and KeyError without RAYTUNE_M2F_DATA."""
    if name == "shapes":
        paths = generate_shapes(output / "shapes" / "data")
        return DataSet(name, {s: (paths[f"{s}_annotations"], paths[f"{s}_images"]) for s in ("train", "val")})
    folder = Path(os.environ["RAYTUNE_M2F_DATA"], name) if name in ("fruits_nuts", "nuclei_dsb") else Path(name)
    folder = folder.resolve()
    files = {split: (folder / f"annotations_{split}.json", folder / split) for split in ("train", "val")}
    for path in (path for pair in files.values() for path in pair):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; see --help for what a set is")
    return DataSet(folder.name, files)


class Laps:
    """Told of each training step (a `Progress`): seconds per step, without evaluations and the first step."""

    def __init__(self, period: int) -> None:
        self.period, self.steps, self.seconds = period, 0, 0.0
        self._last: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, /, **facts: Any) -> None:
        now = time.monotonic()
        if self._last and done > self._last[0] and not (self.period and self._last[0] % self.period == 0):
            self.steps, self.seconds = self.steps + done - self._last[0], self.seconds + now - self._last[1]
        self._last = done, now


def place_of(folder: Path, seed: int | None) -> Path:
    """Where everything of a seed is; None is the threshold."""
    return folder / ("threshold" if seed is None else f"seed-{seed}")


def predictions(place: Path) -> list[Result]:
    results: list[Result] = json.loads((place / "predictions.json").read_bytes())
    return results


def run_threshold(data: DataSet, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    results_to_json(threshold_results(data.read("train"), data.read("val").records), folder / "predictions.json")
    return {"figures": {}, "curve": [], "max_detections": 1000}


def run_seed(data: DataSet, settings: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Train, export, predict val; what it took, and the curve. The predictions lie in predictions.json."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(data.config(settings["config"])), encoding="utf-8")  # JSON is YAML
    config = rm.load_config(folder / "config.yaml", [*settings["overrides"], f"SEED={seed}"])
    laps, ticks = Laps(config.value("TEST.EVAL_PERIOD")), [0.0]
    wall, cpu = time.monotonic(), sum(os.times()[:4])
    last = rm.train(config, folder / "run", progress=laps)
    wall, cpu = time.monotonic() - wall, sum(os.times()[:4]) - cpu
    best = rm.export_model(folder / "run", folder / "model").report
    model = rm.load_model(folder / "model")
    start = time.monotonic()
    model.evaluate(
        *data.files["val"],
        predictions=folder / "predictions.json",
        progress=lambda done, total, /, **facts: ticks.append(time.monotonic() - start),
    )
    figures: Figures = {
        "training and its evaluations, minutes": wall / 60,
        "the same, CPU minutes": cpu / 60,
        "training, images/s": _ratio(laps.steps * config.value("SOLVER.IMS_PER_BATCH"), laps.seconds),
        "prediction, images/s": _ratio(len(ticks) - 1, ticks[-1]),
        "memory, GiB": last["memory_gb"],
        "best iteration": best["iteration"],
        "AP, last iteration": last["segm/AP"],
    }
    curve = [[r["iteration"], r["segm/AP"], r["segm/AP50"], r["seconds"]] for r in read_reports(folder / "run")]
    return {"figures": figures, "curve": curve, "max_detections": config.value("TEST.DETECTIONS_PER_IMAGE")}


def score(truth: CocoDataset, results: Sequence[Result], max_detections: int) -> Figures:
    """All figures of the predictions. Raises RuntimeError where pycocotools and our evaluator differ."""
    ours = evaluate_results(truth, results, max_detections=max_detections)
    evaluation = cocoeval(truth.annotations_file, results, max_detections)
    evaluations = {
        "AP": evaluation,
        "AP50": cocoeval(truth.annotations_file, results, max_detections, iouThrs=np.array([0.5])),
    }
    spread = intervals(ours.measures, DRAWS)
    figures: Figures = {}
    for name, theirs in evaluations.items():
        value, mine = _percent(theirs.eval["precision"][..., 0, -1]), ours.metrics[f"segm/{name}"]
        if abs(value - mine) > 1e-9:
            raise RuntimeError(f"{name}: pycocotools {value}, our evaluator {mine}")
        figures[name] = value
        interval = spread[f"segm/{name}"]
        figures[f"{name}, standard error"] = interval.error
        figures |= {f"{name}, interval from": interval.low, f"{name}, interval to": interval.high}
    hundred = cocoeval(truth.annotations_file, results, 100)  # COCO's own bound
    anything = cocoeval(truth.annotations_file, results, max_detections, useCats=0)
    figures["AP, at most 100 detections"] = _percent(hundred.eval["precision"][..., 0, -1])
    figures["AP, categories left aside"] = _percent(anything.eval["precision"][..., 0, -1])
    for k, category_id in enumerate(evaluation.params.catIds):
        name = evaluation.cocoGt.cats[category_id]["name"]
        figures[f"AP, {name}"] = _percent(evaluation.eval["precision"][:, :, k, 0, -1])
    for name, head in ours.heads.items():
        labels = [a.sublabels[name] for r in truth.records for a in r.instances if a.sublabels[name] != UNKNOWN]
        figures |= {f"{name}, {what}": value for what, value in head_figures(head, labels).items()}
    joint = [name for name in ours.metrics if name.startswith(("segm/AP_joint", "segm/AP_lower", "segm/AP_upper"))]
    figures |= {
        name: ours.metrics[name] for name in [*joint, *(n for n in ours.metrics if n.startswith("segm/AP_all"))]
    }
    return figures


def cocoeval(annotations: Path, results: Sequence[Result], max_detections: int, **params: Any) -> COCOeval:
    """pycocotools by itself, from the annotation file; evaluated and accumulated, with these `params` changed."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        shapes = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
        evaluation = COCOeval(truth, truth.loadRes(shapes) if shapes else COCO(), "segm")
        evaluation.params.maxDets = sorted({1, min(10, max_detections), max_detections})
        vars(evaluation.params).update(params)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def head_figures(head: HeadEvaluation, labels: Sequence[int]) -> Figures:
    """In percent. Balanced accuracy is the mean recall of the classes there are; a majority's is 100 / their number."""
    truths, right = head.confusion.sum(axis=1), np.diagonal(head.confusion)
    there, counts = truths > 0, Counter(labels)
    return {
        "accuracy": _ratio(100 * int(right.sum()), head.matched),
        "majority class": _ratio(100 * max(counts.values(), default=0), len(labels)),
        "majority class of the found": _ratio(100 * int(truths.max()), head.matched),
        "balanced accuracy": 100 * float((right[there] / truths[there]).mean()) if there.any() else None,
        "balanced accuracy of one class": _ratio(100, int(there.sum())),
        "found": float(head.matched),
    }


def instances_of(record: ImageRecord, results: Sequence[Result], categories: Categories) -> Instances:
    """The results of an image as instances, for a picture: a head's probability is known of its best class only."""
    found = [result for result in results if result["image_id"] == record.id]
    subprobs = {name: torch.zeros(len(found), len(classes)) for name, classes in categories.subcategories.items()}
    for name, probabilities in subprobs.items():
        for row, result in zip(probabilities, found, strict=True):
            row[result[name]] = result[f"{name}_score"]
    masks = decode([result["segmentation"] for result in found], record.height, record.width)
    return Instances(
        scores=torch.tensor([result["score"] for result in found]),
        labels=torch.tensor([categories.ids.index(result["category_id"]) for result in found], dtype=torch.int64),
        masks=torch.from_numpy(masks.astype(bool)),
        queries=torch.arange(len(found)),
        subprobs=subprobs,
    )


def draw_sheet(truth: CocoDataset, results: Sequence[Result], images: int, cell_width: int) -> Picture:
    """Truth and prediction side by side, of images spread over the data set."""
    chosen = [truth.records[int(i)] for i in np.linspace(0, len(truth) - 1, min(images, len(truth)))]
    cells, captions = [], []
    for record in chosen:
        image = read_image(record.file)
        for instances in (
            ground_truth_instances(record, truth.categories),
            instances_of(record, results, truth.categories),
        ):
            cells.append(draw_instances(image, instances, truth.categories, short_side=cell_width, show_scores=False))
        captions += [f"{record.file.name}: truth", "predicted"]
    return contact_sheet(cells, columns=4, captions=captions, cell_width=cell_width)


def save_small(truth: CocoDataset, results: Sequence[Result], file: Path) -> None:
    """A sheet of four images below LARGEST_PICTURE."""
    for cell_width in (360, 300, 250, 200, 160, 120):
        picture = Image.fromarray(draw_sheet(truth, results, 4, cell_width)).quantize(256)
        picture.save(file, format="PNG", optimize=True)
        if file.stat().st_size < LARGEST_PICTURE:
            return


def table(results: Sequence[Mapping[str, Any]], facts: Mapping[str, str]) -> str:
    """Markdown: what was run, then a column for each seed, their mean and spread; then AP along the training."""
    trained = [result for result in results if result["seed"] is not None]
    names = list(dict.fromkeys(name for result in results for name in result["figures"]))
    heads = [f"seed {r['seed']}" if r["seed"] is not None else "threshold" for r in results]
    lines = [*(f"{name}: {value}  " for name, value in facts.items()), "", _row("", *heads, "mean", "spread")]
    lines.append("|---" * (len(heads) + 3) + "|")
    for name in names:
        values = [result["figures"].get(name) for result in results]
        known = [r["figures"][name] for r in trained if r["figures"].get(name) is not None]
        mean = statistics.mean(known) if known else None
        lines.append(_row(name, *map(_text, (*values, mean, statistics.stdev(known) if len(known) > 1 else None))))
    lines += ["", "Spread is the standard deviation over seeds; the mean leaves out what is unknown (-)."]
    if trained:
        lines += ["", _row("iteration", *(f"AP / AP50, seed {r['seed']}" for r in trained), "AP, mean")]
        lines.append("|---" * (len(trained) + 2) + "|")
        for points in zip(*(r["curve"] for r in trained), strict=False):
            cells = [f"{_text(point[1])} / {_text(point[2])}" for point in points]
            lines.append(_row(str(points[0][0]), *cells, _text(statistics.mean(point[1] for point in points))))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _percent(precision: NDArray[np.float64]) -> float:
    measured = precision[precision > -1]
    return 100 * float(measured.mean()) if measured.size else 0.0


def facts_of_this_machine() -> dict[str, str]:
    """Date, commit, hardware and versions."""
    git = ["git", "-C", str(REPOSITORY)]
    commit = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processor = f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    packages = ("torch", "numpy", "pycocotools")
    return {
        "date": date.today().isoformat(),
        "commit": commit or "unknown",
        "hardware": f"{processor}, {torch.get_num_threads()} threads, {gpu}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
        ),
    }


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else list(words)
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", metavar="SET")
    parser.add_argument("--config", default="small_data", help="what the configuration builds on; a name or a file")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none at all, with --baseline alone")
    parser.add_argument("--iters", type=int, help="SOLVER.MAX_ITER")
    parser.add_argument("--learned", action="store_true", help="learnable queries in place of located ones")
    parser.add_argument("--baseline", action="store_true", help="also score a threshold with seeds and watershed")
    parser.add_argument("--output", type=Path, default=Path("runs/real"))
    parser.add_argument("--picture", type=Path, help="also write a picture below 300 kB of four images")
    arguments = parser.parse_args([word for word in words if word not in overrides])
    if not arguments.seeds and not arguments.baseline:
        parser.error("--seeds without a number: there is nothing to do without --baseline")
    if arguments.iters is not None:
        overrides.append(f"SOLVER.MAX_ITER={arguments.iters}")
    overrides += LEARNED if arguments.learned else []
    try:
        data = find_set(arguments.set, arguments.output)
    except (FileNotFoundError, KeyError) as problem:
        parser.error("RAYTUNE_M2F_DATA is not set" if isinstance(problem, KeyError) else str(problem))
    folder, truth = arguments.output / data.name, data.read("val")
    settings = {"set": data.name, "config": arguments.config, "overrides": overrides}
    facts = facts_of_this_machine()
    results = []
    for seed in (*arguments.seeds, *([None] if arguments.baseline else [])):
        file = place_of(folder, seed) / "result.json"
        if not file.exists():
            result = run_threshold(data, file.parent) if seed is None else run_seed(data, settings, seed, file.parent)
            figures = score(truth, predictions(file.parent), result["max_detections"])
            whole = {**settings, "seed": seed, **facts, **result, "figures": {**figures, **result["figures"]}}
            file.write_text(json.dumps(whole), encoding="utf-8")
        results.append(json.loads(file.read_bytes()))
        if seed is not None and (other := {key: results[-1][key] for key in settings}) != settings:
            parser.error(f"{file} is of other settings, {other}: give another --output, or the same settings")
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")
    command = shlex.join(["python", "-m", "benchmarks.real", *words])
    text = table(results, {"command": command, **{key: results[0][key] for key in facts}})
    (folder / "table.md").write_text(text, encoding="utf-8")
    shown = predictions(place_of(folder, results[0]["seed"]))
    Image.fromarray(draw_sheet(truth, shown, 8, 320)).save(folder / "sheet.png")
    if arguments.picture:
        save_small(truth, shown, arguments.picture)
    print(text, f"{folder}/table.md, results.jsonl, sheet.png", sep="\n", flush=True)


if __name__ == "__main__":
    main()
