"""COCO instance data with subcategories: checked, augmented, in an order that any worker can work out."""

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.coco import check_same_labels, load_coco
from raytune_m2f.data.compare import load_for_model
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
