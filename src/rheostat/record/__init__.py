"""The record: what happened, kept so that a crash cannot spoil it and a change is noticed.

`log` (the append-only event log: JSON lines, a checksum each), `writer` (one run, written step by
step), `run` (read back as a `RunRecord`), `series` (its columns as Parquet), `environment` (where
it happened), `store` (which studies and runs there are) and `index` (its SQL). Nothing here
imports torch. SQLAlchemy and pyarrow come with
`pip install "rheostat[study]"`: `store` needs the one, `series` loads the other when used.

A new kind of event needs no change here: `RunWriter.event(kind, fields)`. To add a sink,
copy `series`: a function from a `Series` to a file, and one back that verifies.
"""
