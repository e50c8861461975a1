"""Studies: plan, execute, judge.

`plan` is a checked study (`study_file` reads it), `execute` runs what is missing of it in worker
processes (`worker`), `results` gathers the record, `fairness` proves that like was compared with
like, `statistics` and `verdict` judge. `workload` is the shape of a task, and `workloads/` holds
one task a file.

What a study can vary beside its arms is in `conditions`: `faults` that a run meets, or a number
that it sweeps; `contestants` are arms that are no recipes, and `trainee` is what a run steps,
whichever it is. `courses` reads of a record what `resilience` and `ranges` judge, and `scores`
hands to the verdict. To add a fault or a contestant, copy one in its file.
"""
