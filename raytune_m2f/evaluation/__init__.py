"""From predicted instances to numbers: COCO's AP, and what each subcategory head gets right.

evaluator.py      instances as COCO results, all their metrics, and Evaluator: the same over all workers
coco.py           ground truth, and AP and AR in detectron2's names, by hotcoco or pycocotools
subcategories.py  accuracy and confusion table of each head, on the instances that were found
bootstrap.py      the standard error of AP
"""

from raytune_m2f.evaluation.coco import GroundTruth, coco_ground_truth
from raytune_m2f.evaluation.evaluator import (
    CocoEvaluator,
    Evaluation,
    Evaluator,
    Gather,
    Result,
    encode_masks,
    evaluate_results,
    instances_to_results,
    results_to_json,
)

__all__ = [
    "CocoEvaluator",
    "Evaluation",
    "Evaluator",
    "Gather",
    "GroundTruth",
    "Result",
    "coco_ground_truth",
    "encode_masks",
    "evaluate_results",
    "instances_to_results",
    "results_to_json",
]
