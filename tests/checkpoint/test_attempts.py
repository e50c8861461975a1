"""A run that dies before its first save, again and again, is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.checkpoint.conftest import save

from rheostat.checkpoint.attempts import FILE, count_start, forget_starts
from rheostat.core.errors import MachineError


def test_starts_without_a_save_are_counted_and_reported(directory: Path) -> None:
    assert [count_start(directory, limit=3) for _ in range(3)] == [1, 2, 3]
    for _ in range(2):
        said = r"3 starts in a row ended before the first save after the beginning: .* remove .*"
        with pytest.raises(MachineError, match=said + FILE):
            count_start(directory, limit=3)
    (directory / FILE).unlink()
    assert count_start(directory, limit=3) == 1


def test_a_save_resets_the_count_by_itself(directory: Path) -> None:
    for step in (10, 20, 30, 40):
        assert count_start(directory, limit=2) == 1
        assert count_start(directory, limit=2) == 2
        save(directory, step)
    assert count_start(directory, limit=1) == 1
    with pytest.raises(MachineError, match="the first save after step 40"):
        count_start(directory, limit=1)


def test_an_end_as_it_should_be_forgets_them(directory: Path) -> None:
    forget_starts(directory)
    for _ in range(10):
        assert count_start(directory, limit=1) == 1
        forget_starts(directory)


def test_a_link_is_replaced_not_followed(directory: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    directory.mkdir(parents=True)
    (directory / FILE).symlink_to(mine)
    assert [count_start(directory), count_start(directory)] == [1, 2]
    assert mine.read_text() == "precious"


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b"\xff", b'{"newest": 0, "starts": "9"}', b"[" * 2000, b'{"starts": 9}'],
)
def test_a_damaged_count_starts_anew(directory: Path, damage: bytes) -> None:
    count_start(directory)
    (directory / FILE).write_bytes(damage)
    assert count_start(directory) == 1
