"""What a power cut may leave, enumerated from the calls that a save really makes.

The model is weaker than any file system: what was written to a file and not synced may be there,
not be there, be there in part or as zeros; a name that was made, moved or removed in a directory
that was not synced since may be so or not, each by itself. A rename is all or nothing.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pytest
from tests.checkpoint.conftest import is_content, save
from tests.checkpoint.disk import Call, Disk

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import TEMPORARY, Keep, generations, hold, prune
from rheostat.checkpoint.load import newest, read
from rheostat.checkpoint.save import write

Thing = TypeVar("Thing")
Tree = dict[str, dict[str, bytes]]
"""Folder -> file -> content, as it is found after the crash."""


class Names(Generic[Thing]):
    """The names in a directory: what is synced, and the changes since (name before, after)."""

    def __init__(self) -> None:
        self._synced: dict[str, Thing] = {}
        self._changes: list[tuple[str | None, str | None, Thing]] = []

    def change(self, before: str | None, after: str | None, thing: Thing) -> None:
        """Make (None, name), move, or remove (name, None)."""
        self._changes.append((before, after, thing))

    def sync(self) -> None:
        """Everything so far survives."""
        self._synced, self._changes = self.now(), []

    def now(self) -> dict[str, Thing]:
        """What a living system sees."""
        return self._with(self._changes)

    def possible(self) -> Iterator[dict[str, Thing]]:
        """What may be there after a crash."""
        for count in range(len(self._changes) + 1):
            for chosen in itertools.combinations(self._changes, count):
                yield self._with(list(chosen))

    def _with(self, changes: list[tuple[str | None, str | None, Thing]]) -> dict[str, Thing]:
        names = dict(self._synced)
        for before, after, thing in changes:
            if before is not None:
                names.pop(before, None)
            if after is not None:
                names = {name: other for name, other in names.items() if other is not thing}
                names[after] = thing
        return names


@dataclass(eq=False)
class File:
    """A file's bytes, and whether they are synced."""

    data: bytes = b""
    synced: bool = True

    def possible(self) -> list[bytes]:
        """What of it may be on the disk."""
        half = len(self.data) // 2
        lost = [b"", self.data[:half], bytes(len(self.data)), bytes(half) + self.data[half:]]
        return [self.data] if self.synced else [self.data, *lost]


class Crashes:
    """The directory of checkpoints, followed call by call."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: Names[Names[File]] = Names()
        for path in root.iterdir():
            files: Names[File] = Names()
            for file in path.iterdir():
                files.change(None, file.name, File(file.read_bytes()))
            files.sync()
            self._folders.change(None, path.name, files)
        self._folders.sync()

    def apply(self, call: Call) -> None:
        """One call, as it changes what is there."""
        path = Path(call.path)
        if path == self._root:
            assert call.name == "fsync", call
            self._folders.sync()
        elif path.parent == self._root:
            self._apply_to_folder(call, path.name)
        else:
            self._apply_to_file(call, self._folders.now()[path.parent.name], path.name)

    def _apply_to_folder(self, call: Call, name: str) -> None:
        if call.name == "mkdir":
            self._folders.change(None, name, Names())
        elif call.name == "rename":
            self._folders.change(name, Path(call.other).name, self._folders.now()[name])
        elif call.name == "rmdir":
            self._folders.change(name, None, self._folders.now()[name])
        else:
            assert call.name == "fsync", call
            self._folders.now()[name].sync()

    def _apply_to_file(self, call: Call, files: Names[File], name: str) -> None:
        if call.name == "create":
            files.change(None, name, File())
        elif call.name == "unlink":
            files.change(name, None, files.now()[name])
        elif call.name == "write":
            file = files.now()[name]
            file.data, file.synced = file.data + call.data, False
        else:
            assert call.name == "fsync", call
            files.now()[name].synced = True

    def possible(self) -> Iterator[Tree]:
        """Every tree that a crash may leave now."""
        for folders in self._folders.possible():
            states = [list(_contents(files)) for files in folders.values()]
            for chosen in itertools.product(*states):
                yield dict(zip(folders, chosen, strict=True))


def _contents(files: Names[File]) -> Iterator[dict[str, bytes]]:
    for names in files.possible():
        for chosen in itertools.product(*(file.possible() for file in names.values())):
            yield dict(zip(names, chosen, strict=True))


def crash_states(
    root: Path, act: Callable[[], object], lost: str = ""
) -> Iterator[tuple[bool, Tree]]:
    """Every state in which a crash during or after `act` may leave `root`.

    Yields whether `act` had returned, and the tree. `lost` names syncs that are left out of the
    trace: of each "file", of the new "folder" or of the "directory".
    """
    crashes = Crashes(root)
    with Disk().between() as disk:
        act()
    seen: set[str] = set()
    for number, call in enumerate([None, *disk.calls]):
        if call is not None and not (call.name == "fsync" and _level(root, call) == lost):
            crashes.apply(call)
        for tree in crashes.possible():
            key = repr(sorted((name, sorted(files.items())) for name, files in tree.items()))
            returned = number == len(disk.calls)
            if returned or key not in seen:
                seen.add(key)
                yield returned, tree


def _level(root: Path, call: Call) -> str:
    depth = len(Path(call.path).relative_to(root).parts)
    return ("directory", "folder", "file")[depth]


def lay_down(tree: Tree, place: Path) -> Path:
    """The tree as folders and files."""
    shutil.rmtree(place, ignore_errors=True)
    for name, files in tree.items():
        (place / name).mkdir(parents=True)
        for file, data in files.items():
            (place / name / file).write_bytes(data)
    return place


def examine(
    root: Path, act: Callable[[], object], place: Path, allowed: tuple[int, ...], lost: str = ""
) -> tuple[int, set[int]]:
    """Load from every crash state; return how many there were, and the steps found after `act`.

    Each state must give the content of an allowed step, and no checkpoint that is not whole.
    """
    count, after = 0, set[int]()
    for returned, tree in crash_states(root, act, lost):
        found = newest(lay_down(tree, place), fall_back=False)
        assert found is not None
        assert found.step in allowed
        is_content(found, found.step)
        if returned:
            after.add(found.step)
        count += 1
    return count, after


def test_a_save_is_there_whole_or_not_at_all(directory: Path, tmp_path: Path) -> None:
    save(directory, 1)
    count, after = examine(directory, lambda: save(directory, 2), tmp_path / "state", (1, 2))
    assert after == {2}, "once write has returned, a power cut loses nothing"
    assert count > 50


def test_the_first_save_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    directory = tmp_path / "made"
    directory.mkdir()
    steps: set[int | None] = set()
    for returned, tree in crash_states(directory, lambda: save(directory, 1)):
        found = newest(lay_down(tree, tmp_path / "state"), fall_back=False)
        steps.add(found.step if found else None)
        assert not returned or found is not None
    assert steps == {None, 1}


def test_pruning_leaves_whole_ones_and_the_newest(directory: Path, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(directory, step)
    states = list(crash_states(directory, lambda: prune(directory, Keep(last=1))))
    assert len(states) > 30
    for _, tree in states:
        place = lay_down(tree, tmp_path / "state")
        named = [name for name in tree if not name.startswith(TEMPORARY)]
        for name in named:
            is_content(read(place / name), int(name.rpartition("-")[2]))
        assert "00000003-step-3" in named
    with hold(tmp_path / "state"):
        assert [found.step for found in generations(tmp_path / "state")] == [3]


@pytest.mark.parametrize("lost", ["file", "folder", "directory"])
def test_without_any_one_of_the_syncs_it_would_not_hold(
    directory: Path, tmp_path: Path, lost: str
) -> None:
    write(directory, 1, {}, {"run": {}})

    def after() -> set[int]:
        found: set[int] = set()
        for returned, tree in crash_states(directory, lambda: write(directory, 2, {}, {}), lost):
            loaded = newest(lay_down(tree, tmp_path / "state"), fall_back=False)
            assert loaded is not None
            found |= {loaded.step} if returned else set()
        return found

    if lost == "directory":
        assert after() == {1, 2}
    else:
        with pytest.raises(DamageError):
            after()
