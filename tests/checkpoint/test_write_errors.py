"""Every call that writes fails once, or from then on: the error is clear, older ones stay whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.checkpoint.conftest import content, is_content, save
from tests.checkpoint.disk import ERRORS, Call, Disk
from tests.conftest import missing

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import TEMPORARY, Keep, generations, hold
from rheostat.checkpoint.load import newest, read
from rheostat.checkpoint.save import AsyncWriter
from rheostat.checkpoint.verify import verify
from rheostat.core.errors import MachineError


def save_and_prune(directory: Path, seed: int) -> None:
    """One save behind, with the pruning that follows it."""
    with AsyncWriter(directory, Keep(last=2)) as writer:
        writer.save(seed, *content(seed))


def whole_ones(directory: Path) -> list[int]:
    """The steps of what is there, every one of which must be whole."""
    for found in generations(directory):
        is_content(read(found.path), found.step)
    return [found.step for found in generations(directory)]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A directory with the steps 1, 2, 3."""
    for step in (1, 2, 3):
        save(tmp_path / "three", step)
    return tmp_path / "three"


def calls_of_a_save(three: Path, tmp_path: Path) -> list[Call]:
    """What one save with pruning asks of the disk."""
    copied = Path(shutil.copytree(three, tmp_path / "counted"))
    with Disk().between() as disk:
        save_and_prune(copied, 4)
    assert whole_ones(copied) == [3, 4]
    return disk.calls


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_every_writing_call_may_fail(three: Path, tmp_path: Path, lasting: bool) -> None:
    calls = calls_of_a_save(three, tmp_path)
    assert {call.name for call in calls} == set(ERRORS)
    renamed = next(i for i, call in enumerate(calls) if call.name == "rename")
    tried = 0
    for number, call in enumerate(calls):
        for code in ERRORS[call.name]:
            place = Path(shutil.copytree(three, tmp_path / f"{number}-{code}"))

            def fails(n: int, _: Call, at: int = number, code: int = code) -> int | None:
                return code if n == at or (lasting and n > at) else None

            with Disk(fails).between(), pytest.raises(MachineError) as caught:
                save_and_prune(place, 4)
            said = str(caught.value)
            assert os.strerror(code) in said
            assert "\n" not in said
            assert str(place) in said
            found = whole_ones(place)
            # Before the rename the new one is absent, after it whole; 2 and 3 stay in any case.
            assert set(found) >= {2, 3} if number <= renamed else found[-1] == 4
            assert (4 in found) == (number > renamed)
            if not lasting and number <= renamed:
                assert not list(place.glob(f"{TEMPORARY}*"))
            with Disk().between(), hold(place):
                save_and_prune(place, 5)
            assert whole_ones(place)[-1] == 5
            assert not list(place.glob(f"{TEMPORARY}*"))
            shutil.rmtree(place)
            tried += 1
    assert tried > 40


def test_short_writes_are_continued(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    save_and_prune(three, 4)
    assert whole_ones(three) == [3, 4]


def test_a_disk_that_swallows_bytes_is_noticed_when_it_is_read_back(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = os.write, 0

    def swallow(descriptor: int, data: bytes) -> int:
        nonlocal count
        count += 1
        return len(data) if count == 2 else write(descriptor, data)

    monkeypatch.setattr(os, "write", swallow)
    with pytest.raises(MachineError, match=r"00000004-step-4/.* no older one was removed"):
        save_and_prune(three, 4)
    assert [found.step for found in generations(three)] == [1, 2, 3, 4]
    found = newest(three)
    assert found is not None
    assert found.step == 3
    with pytest.raises(DamageError):
        verify(generations(three)[-1].path)


COMMIT = """
import sys
from pathlib import Path
from rheostat.checkpoint.commit import commit
from rheostat.core.errors import MachineError
try:
    commit(Path(sys.argv[1]), 2, {"a.json": [b"{}\\n"], "b.json": [b"{}\\n"]})
except MachineError as error:
    sys.exit(3)
"""


@pytest.mark.faults
@pytest.mark.slow
def test_the_system_itself_may_fail_every_call(tmp_path: Path) -> None:
    """The same through strace, which fails the system calls of an unchanged process."""
    if shutil.which("strace") is None:
        missing("strace", "strace")
    failed = 0
    for call, codes in {
        "write": ("ENOSPC", "EIO", "EDQUOT"),
        "fsync": ("EIO", "ENOSPC"),
        "rename": ("EIO", "ENOSPC"),
        "mkdir": ("ENOSPC",),
    }.items():
        for code in codes:
            for number in range(1, 99):
                place = tmp_path / f"{call}-{code}-{number}"
                save(place, 1)
                inject = f"inject={call}:error={code}:when={number}"
                command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
                command += ["-e", inject, sys.executable, "-B", "-c", COMMIT, str(place)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode in (0, 3), done.stderr
                found = [generation.step for generation in generations(place)]
                for generation in generations(place):
                    verify(generation.path)
                assert found[0] == 1
                if done.returncode == 0:
                    assert found == [1, 2]
                    break
                failed += 1
                # Only the last sync fails once the checkpoint is there.
                assert found == [1] or call == "fsync"
                assert not list(place.glob(f"{TEMPORARY}*"))
            else:
                pytest.fail(f"{call} never ran out")
    assert failed >= 3 * 3 + 2 * 5 + 2 + 1
