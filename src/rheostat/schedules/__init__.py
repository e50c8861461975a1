"""Pure functions of progress, one family a file.

To add one, copy `annealing.py`'s `cosine`: a registered factory that returns a `Schedule`. One
whose horizon comes from the run takes it as `steps`. Reach them as `rheostat.schedules.<name>`.
"""

from rheostat.core.registry import shelf

__getattr__, __dir__ = shelf("schedule")
