"""Configurations that ship with raytune_m2f: experiments in detectron2's and Mask2Former's keys."""
