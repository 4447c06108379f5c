"""Search spaces that ship with raytune_m2f: `raytune-m2f tune --space NAME` reads NAME.yaml of this folder."""
