"""Pure functions of progress, one family a file.

To add one, copy `annealing.py`'s `cosine`: a registered factory that returns a `Schedule`, made of
what `shapes.py` holds. One whose horizon comes from the run takes it as `steps`. No file may have
the name of a component. Reach them as `rheostat.schedules.<name>`.
"""

from rheostat.core.registry import shelf

__getattr__, __dir__ = shelf("schedule")
