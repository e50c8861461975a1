"""Controllers, one a file, and the arbiter that bounds, applies, logs and takes back.

To add a controller, copy `plateau.py`: a function of what was measured that returns decisions,
and its card with the argument why it is stable and its worst case. Nothing here touches a model or
an optimizer but through the hands that a run gives the arbiter.
"""
