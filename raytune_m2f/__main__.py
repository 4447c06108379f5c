"""`python -m raytune_m2f` is `raytune-m2f`."""

from raytune_m2f.cli.main import main

main()
