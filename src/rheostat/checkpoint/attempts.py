"""A crash loop, noticed: how often a run was started since it last saved.

A supervisor that restarts what dies would spin for ever where a run dies before its first save. The
count is kept beside the checkpoints with the number of the newest: a save resets it by itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from rheostat.checkpoint.generations import generations
from rheostat.core.durable import disk_errors, make_directory, sync_directory, write_json
from rheostat.core.errors import MachineError

FILE = "attempts.json"


def count_start(directory: Path, limit: int = 5) -> int:
    """Count one more start; return how many there were since the newest checkpoint was saved.

    Call it at each start, `forget_starts` when the run ends as it should.

    Raises:
        MachineError: `limit` starts in a row have ended before a save; says since when.
    """
    found = generations(directory)
    newest = found[-1].number if found else 0
    path = directory / FILE
    starts = _starts(path, newest)
    if starts >= limit:
        since = f"step {found[-1].step}" if found else "the beginning"
        raise MachineError(
            f"{directory}: {starts} starts in a row ended before the first save after {since}: "
            f"find out why they end, or save earlier; remove {path} to try again"
        )
    make_directory(directory)
    with disk_errors("write", path):
        if path.is_symlink():  # `write_json` would replace what it points to
            path.unlink()
    write_json(path, {"newest": newest, "starts": starts + 1})
    return starts + 1


def forget_starts(directory: Path) -> None:
    """Forget the starts: the run has ended well, with or without a save."""
    path = directory / FILE
    with disk_errors("remove", path):
        if path.exists():
            path.unlink()
            sync_directory(directory)


def _starts(path: Path, newest: int) -> int:
    """Starts since the checkpoint with the number `newest`; 0 where the file says nothing sound."""
    with disk_errors("read", path):
        try:
            with path.open("rb") as file:
                value: object = json.loads(file.read(1024))
        except (FileNotFoundError, ValueError, RecursionError):
            return 0
    match value:
        case {"newest": int(number), "starts": int(starts)} if number == newest:
            return starts
        case _:
            return 0
