"""Work on a Ray cluster elsewhere, as Ray jobs: they outlive the client that sent them.

pack.py    what a job takes along: configuration, search space, modules; nothing that keeps secrets
client.py  the cluster's job server: is it there, does it let us in
jobs.py    send, find, follow and stop a job; run a short one and read its answer

Nothing is imported here: a log should not wait for torch, which only what packs a job needs.
"""
