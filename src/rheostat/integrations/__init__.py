"""Other people's software, each met in one place: libraries of optimizers, training frameworks.

`libraries` gives what other libraries have registry keys (`torch/AdamW`); `foreign` is what all of
them share. To add a library, copy `libraries/schedulefree.py`.
"""
