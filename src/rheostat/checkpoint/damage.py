"""What is raised for a checkpoint that is not as it was written."""

from __future__ import annotations

from rheostat.core.errors import InputError


class DamageError(InputError):
    """A checkpoint is damaged, incomplete or forged; the text says which file and how."""
