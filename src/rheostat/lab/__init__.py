"""Studies: plan, execute, judge.

`plan` is a checked study (`study_file` reads it), `execute` runs what is missing of it in worker
processes (`worker`), `results` gathers the record, `fairness` proves that like was compared with
like, `statistics` and `verdict` judge. `workload` is the shape of a task, and `workloads/` holds
one task a file.
"""
