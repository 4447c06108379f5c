"""Every key of the configuration, section by section; units stand in brackets at the end of a description.

base.py        what every section has in common
model.py       MODEL: the network and its loss
backbones.py   MODEL.BACKBONE and the section of each kind, and what the name of MODEL.WEIGHTS says
solver.py      SOLVER, MODEL_EMA: optimizer, schedule, batch, averaged weights
data.py        INPUT, DATASETS, DATALOADER, TEST: images in, metrics out
"""
