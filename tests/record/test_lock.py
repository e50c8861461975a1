"""One process holds a lock; a dead one holds none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rheostat.core.errors import MachineError
from rheostat.record.lock import locked

HOLDER = """
import sys
from pathlib import Path
from rheostat.record.lock import locked
with locked(Path(sys.argv[1]), "study 's'"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_live_holder_is_named(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    said = f"study 's' is held by process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(MachineError, match=said), locked(tmp_path / "lock", "study 's'"):
        raise AssertionError("two hold it")
    assert f"process {holder.pid} " in (tmp_path / "lock").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_holder_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[bytes], how: signal.Signals
) -> None:
    holder.send_signal(how)
    holder.wait()
    with locked(tmp_path / "lock", "study 's'"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_it_is_exclusive_in_one_process_and_free_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"

    def fail_while_holding() -> None:
        with locked(path, "it"):
            with pytest.raises(MachineError, match=f"process {os.getpid()}"), locked(path, "it"):
                pass
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail_while_holding()


def test_an_unwritable_place_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(MachineError, match="in the way"),
        locked(tmp_path / "file" / "lock", "it"),
    ):
        pass
    with pytest.raises(MachineError, match="cannot lock"), locked(Path("/proc/self/none"), "it"):
        pass
