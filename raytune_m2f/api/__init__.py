"""What the package does, as Python functions; `import raytune_m2f as rm` gives them by name.

    study = rm.tune("demo.yaml", "demo", "studies/x", trials=8)     search; Ctrl-C interrupts, `rm.resume` goes on
    study.best, study.status(), study.trials_dataframe()            read it, now or years later: rm.Study("studies/x")
    model = study.export("models/x")                                the best trial as a model
    model.predict("image.jpg")                                      instances, with every name

projects.py     init
examination.py  diagnose
training.py     train
studies.py      tune, resume, Study
reporting.py    what Study.report does
models.py       export_model, load_model, and what a model predicts

The commands are thin callers of these. Torch and Ray are imported by the functions that need them, after whatever can
be refused without them: a wrong word costs no time.
"""
