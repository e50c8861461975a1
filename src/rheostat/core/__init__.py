"""The law: the shapes that everything else is built from.

`transform` (pieces of an update rule), `schedule` (functions of progress), `signal`
(what is measured), `controller` (measurements in, decisions out), `registry`
(components and their versions), `hyper` (what a hyperparameter may be), `roles` (what a
parameter is for) and `errors`; and what several rooms write files with: `durable` (files that
are whole or not there, canonical JSON, content hashes) and `lock` (one process at a time).
Nothing here imports a room above it. To add a shape, write a decision first:
`docs/decisions/`.
"""
