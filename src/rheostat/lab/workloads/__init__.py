"""Tasks to train on, one a file: data without downloads, a model, a loss and metrics.

To add one, copy `digits_mlp.py`: a registered factory that returns a `Workload`.
"""
