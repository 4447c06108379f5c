"""Work on a Ray cluster elsewhere, as Ray jobs, which outlive the client that submitted them.

jobs.py     submit, find, follow and stop a job; read a study by a short job
client.py   connect to the cluster's job server
pack.py     what a job takes along: configuration, search space, modules; nothing that holds secrets

Nothing is imported here: only pack.py needs torch.
"""
