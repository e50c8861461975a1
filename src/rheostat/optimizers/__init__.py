"""The one loop (`loop`), what makes an optimizer of a rule (`build`), and the algorithms.

One algorithm a file: a registered factory that returns a chain of transforms, and its
docstring is its card. To add one, copy `adamw.py`; nothing else needs touching.
"""
