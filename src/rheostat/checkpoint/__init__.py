"""Checkpoints: what a run needs to go on as if it had never stopped, kept through any crash.

A directory holds generations, each a folder of safetensors files, JSON and a manifest with the
SHA-256 of every byte; docs/guide/checkpoints.md has the format. `save` (`write`, `AsyncWriter`) and
`load` (`read`, `newest`) speak tensors; below them `tensors` (tensors as bytes) and, without torch,
`commit` (whole or not at all), `verify`, `generations` (which there are, the lock, pruning),
`manifest`, `layout` (safetensors headers), `documents` (exact JSON). Beside them `rng`, `sampler`,
`attempts` (a crash loop, noticed), `compare` and `foreign` (torch's files).

What is saved is the caller's to say. To keep one more thing, add tensors or a document to what is
given to `save`; the format needs no change.
"""
