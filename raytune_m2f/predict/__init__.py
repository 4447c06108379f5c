"""Use an exported model: predict image files as pictures and COCO JSON, and score it on a data set.

files.py     which images are meant, their pages, the names of their pictures; what must not be written over
content.py   what is written: instances.json, results.json, lines for pipes, pictures
pipeline.py  predict_files: reading and drawing in threads beside the network
evaluate.py  evaluate_export: an exported model's scores
"""

from raytune_m2f.predict.content import INSTANCES, MAX_PICTURE_PIXELS, RESULTS
from raytune_m2f.predict.evaluate import Progress, evaluate_export, evaluator_of, images_of
from raytune_m2f.predict.files import Page, find_images, picture_names
from raytune_m2f.predict.pipeline import predict_files, with_overrides

__all__ = [
    "INSTANCES",
    "MAX_PICTURE_PIXELS",
    "RESULTS",
    "Page",
    "Progress",
    "evaluate_export",
    "evaluator_of",
    "find_images",
    "images_of",
    "picture_names",
    "predict_files",
    "with_overrides",
]
