"""From predicted instances to numbers: COCO's AP, joint AP of categories and subcategories, and how sure all that is.

evaluator.py      instances as COCO results, all their metrics, and Evaluator: the same over all workers
coco.py           ground truth, and AP and AR in detectron2's names, by hotcoco or pycocotools
overlaps.py       what is left of an image once its masks are compared: scores, labels and overlaps
matching.py       which detection finds which annotation, of a whole dataset at once
ranked.py         AP and AR of ranked detections, for any weights of the images
joint.py          joint AP: category and subcategory both right, with its bounds
subcategories.py  what each head gets right on the instances that were found, and its confusion table
measures.py       every metric as a function of how often each image counts
bootstrap.py      standard errors, and the difference of two models on the same images
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
