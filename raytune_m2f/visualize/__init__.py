"""Pictures of instances: translucent masks, smooth outlines, readable labels; and sheets of several pictures."""

from raytune_m2f.visualize.overlay import Picture, draw_instances
from raytune_m2f.visualize.sheet import contact_sheet

__all__ = ["Picture", "contact_sheet", "draw_instances"]
