"""Read what an annotation tool has written: each dialect, and what all of them share.

read.py          read_export: find out what a file is, read it, join several
source.py        open JSON, XML and text files that may come from anybody
draft.py         what a dialect gives before its image files are found: Draft, Reading, Notes
values.py        fields: names, numbers, truth values, lists of words
outlines.py      polygons and masks: check, draw, scale, rotate
files.py         find image files by what an export calls them
fit.py           drafts on their image files: sizes, coordinates, pictures
coco.py          COCO, of any tool
coco_labels.py   labels that COCO files hold as numbers: subcategories, attribute_ids
labelme.py       labelme
yolo.py          YOLO segmentation (Ultralytics)
cvat.py          CVAT for images 1.1
label_studio.py  Label Studio
brush.py         the run lengths of Label Studio's brush
"""

from raytune_m2f.project.dialects.read import read_export

__all__ = ["read_export"]
