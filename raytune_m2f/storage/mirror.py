"""For the branches that still name it; goes with them."""

from raytune_m2f.storage.folder import Mirror as Mirror
