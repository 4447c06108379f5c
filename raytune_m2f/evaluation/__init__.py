"""From predicted instances to numbers: COCO segm AP, and what each subcategory head gets right."""

from raytune_m2f.evaluation.bootstrap import ap_standard_error
from raytune_m2f.evaluation.coco import coco_ground_truth, evaluate_segm
from raytune_m2f.evaluation.evaluator import CocoEvaluator, Evaluator, Gather, ground_truth_instances
from raytune_m2f.evaluation.results import (
    Evaluation,
    Result,
    evaluate_results,
    instances_to_results,
    results_to_json,
)
from raytune_m2f.evaluation.subcategories import HeadEvaluation

__all__ = [
    "CocoEvaluator",
    "Evaluation",
    "Evaluator",
    "Gather",
    "HeadEvaluation",
    "Result",
    "ap_standard_error",
    "coco_ground_truth",
    "evaluate_results",
    "evaluate_segm",
    "ground_truth_instances",
    "instances_to_results",
    "results_to_json",
]
