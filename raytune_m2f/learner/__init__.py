"""What is trained: a network with its losses, optimizer, schedule and first weights.

base.py       what the training knows of it      mask_former.py   our own network
build.py      network and criterion of a configuration
optimizer.py  AdamW's groups, schedules          weights.py, weight_files.py   MODEL.WEIGHTS
"""
