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
from rheostat.core.lock import locked

HOLDER = """
import sys
from pathlib import Path
from rheostat.core.lock import locked
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


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "lock").symlink_to(mine)
    with (
        pytest.raises(MachineError, match="symbolic link, which is not followed"),
        locked(tmp_path / "lock", "it"),
    ):
        pass
    assert mine.read_text() == "precious"


FORKED = """
import os, sys, time
from pathlib import Path
from rheostat.core.lock import locked
with locked(Path(sys.argv[1]), "it"):
    if not os.fork():
        print(os.getpid(), flush=True)  # the child itself: what it does at a fork is done
        time.sleep(60)
    sys.stdin.read()
"""


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            held = pytest.raises(MachineError, match=f"process {parent.pid} ")
            with held, locked(tmp_path / "lock", "it"):
                pass
            parent.kill()
            parent.wait()
            os.kill(child, 0)  # it lives
            with locked(tmp_path / "lock", "it"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_frees_nothing(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from rheostat.core.errors import MachineError
from rheostat.core.lock import locked
path = Path(sys.argv[1])
with locked(path, "it"):
    child = os.fork()
    if not child:
        reused = os.open(path, os.O_RDONLY)  # the number that the lock had
if not child:
    os.fstat(reused)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with locked(path, "it"):
    pass
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=True)


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
