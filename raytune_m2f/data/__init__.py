"""COCO instance data with subcategories: checked, augmented, in an order that any worker can compute.

records.py      what is in memory: Annotation, ImageRecord, CocoDataset; TrainSample and TestSample made of it
categories.py   Categories: what labels mean
coco.py         load_coco: read an annotation file and check all of it
labels/         subcategory labels that are in another field than their head's, or that no head reads
masks.py        polygons and run lengths: check, encode, decode
images.py       read image files as RGB; inspect their headers
agreement.py    compare masks with bounding boxes
outlines.py     whether masks follow what their images show
summary.py      the data in numbers, with notes and problems
compare.py      compare labels: of two files, with a study's fingerprint, with a model
dataset.py      order of the samples, and the datasets behind a DataLoader
transforms.py   large-scale jitter and the resize of test images
augment.py      what can come on top: colour jitter, copy-paste
synthetic.py    a small data set of coloured shapes
"""

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.coco import load_coco
from raytune_m2f.data.compare import check_same_labels, load_for_model
from raytune_m2f.data.dataset import BatchStream, StreamSampler, TestDataset, TrainDataset, shard
from raytune_m2f.data.images import read_image
from raytune_m2f.data.records import Annotation, CocoDataset, ImageRecord, TestSample, TrainSample
from raytune_m2f.data.summary import DataSummary, Summary, summarize, summarize_all
from raytune_m2f.data.synthetic import generate_shapes
from raytune_m2f.data.transforms import Jitter, resize_shortest_edge, shortest_edge_size

__all__ = [
    "Annotation",
    "BatchStream",
    "Categories",
    "CocoDataset",
    "DataSummary",
    "ImageRecord",
    "Jitter",
    "StreamSampler",
    "Summary",
    "TestDataset",
    "TestSample",
    "TrainDataset",
    "TrainSample",
    "check_same_labels",
    "generate_shapes",
    "load_coco",
    "load_for_model",
    "read_image",
    "resize_shortest_edge",
    "shard",
    "shortest_edge_size",
    "summarize",
    "summarize_all",
]
