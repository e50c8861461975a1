"""Pure update rules, one family a file.

To add one, copy `scaling.py`'s `scale_by_learning_rate`: a registered factory that returns a
`Transform`. Its numeric arguments become hyperparameters in `param_groups`; its buffers are
declared by name. Reach them as `rheostat.transforms.<name>`.
"""

from rheostat.core.registry import shelf

__getattr__, __dir__ = shelf("transform")
