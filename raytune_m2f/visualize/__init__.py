"""Pictures of instances, and sheets of several pictures.

overlay.py   draw_instances: masks, outlines and labels over an image; contact_sheet: pictures in rows
shapes.py    the smooth shape of a mask, and the colours of instances
labels.py    where labels and legends go, and how they are drawn
fonts.py     text in any script
"""

from raytune_m2f.visualize.overlay import Picture, contact_sheet, draw_instances, ground_truth_instances

__all__ = ["Picture", "contact_sheet", "draw_instances", "ground_truth_instances"]
