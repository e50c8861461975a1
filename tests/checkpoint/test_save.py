"""Saving behind: what is saved is what was there, errors arrive, old checkpoints go in order."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from tests.checkpoint.conftest import content, is_content, save

from rheostat.checkpoint import commit as commit_module
from rheostat.checkpoint import generations as generations_module
from rheostat.checkpoint import save as save_module
from rheostat.checkpoint.generations import TEMPORARY, Keep, generations, hold, prune
from rheostat.checkpoint.load import newest, read
from rheostat.checkpoint.save import AsyncWriter
from rheostat.core.errors import InputError, MachineError


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints there, oldest first."""
    return [found.step for found in generations(directory)]


def test_what_changes_after_the_call_is_not_saved(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    commit = save_module.commit

    def late(*arguments: object, **named: object) -> Path:
        assert go.wait(60)
        return commit(*arguments, **named)

    monkeypatch.setattr(save_module, "commit", late)
    tensors, documents = content(7)
    with AsyncWriter(directory) as writer:
        writer.save(7, tensors, documents)
        for named in tensors.values():
            for tensor in named.values():
                tensor.fill_(1)
        documents["run"]["seed"] = 99
        assert steps(directory) == []
        go.set()
    found = newest(directory)
    assert found is not None
    is_content(found, 7)


def test_buffers_are_reused_and_made_anew_when_the_tensors_change(directory: Path) -> None:
    kept: list[int] = []
    with AsyncWriter(directory) as writer:
        for seed in (1, 2, 3):
            tensors, documents = content(seed)
            if seed == 3:
                tensors["model"]["more"] = torch.full((4,), 4.0)
            writer.save(seed, tensors, documents)
            kept.append(writer._buffers["model.safetensors"]._data.ctypes.data)
    assert kept[0] == kept[1]
    for found, seed in zip(generations(directory)[:2], (1, 2), strict=True):
        is_content(read(found.path), seed)
    assert read(generations(directory)[2].path).tensors["model"]["more"].sum() == 16


def test_one_save_is_in_flight_and_the_next_waits(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    commit = save_module.commit

    def counted(*arguments: object, **named: object) -> Path:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return commit(*arguments, **named)
        finally:
            running -= 1

    monkeypatch.setattr(save_module, "commit", counted)
    with AsyncWriter(directory) as writer:
        for seed in range(5):
            writer.save(seed, *content(seed))
        path = writer.wait()
        assert path is not None
        assert path.name == "00000005-step-4"
        assert writer.wait() is None
    assert most == 1
    for found in generations(directory):
        is_content(read(found.path), found.step)


def test_an_error_behind_reaches_the_next_call_once_and_saving_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with AsyncWriter(directory) as writer:
        writer.save(1, *content(1))
        writer.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            writer.save(2, *content(2))
            assert writer._pending is not None
            writer._pending.exception(60)
        with pytest.raises(MachineError, match="No space left on device; free some space"):
            writer.check()
        writer.check()
        writer.save(3, *content(3))
    assert steps(directory) == [1, 3]
    assert not list(directory.glob(f"{TEMPORARY}*"))


def test_closing_reports_too_and_a_closed_writer_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(5, "bad")))
    writer = AsyncWriter(directory)
    writer.save(1, *content(1))
    with pytest.raises(MachineError, match="bad"):
        writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.save(2, *content(2))
    with pytest.raises(InputError, match="cannot be named"), AsyncWriter(directory) as other:
        other.save(1, {"A": {}}, {})


def test_an_interrupt_while_waiting_loses_nothing_and_mixes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    commit = save_module.commit

    def late(*arguments: object, **named: object) -> Path:
        assert go.wait(60)
        return commit(*arguments, **named)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(save_module, "commit", late)
    with AsyncWriter(directory) as writer:
        writer.save(1, *content(1))
        with monkeypatch.context() as patch:
            patch.setattr(save_module.futures, "wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.save(2, *content(2))
        go.set()
        writer.save(3, *content(3))
    assert steps(directory) == [1, 3]
    for found in generations(directory):
        is_content(read(found.path), found.step)


@pytest.mark.gpu
def test_tensors_of_a_gpu_are_saved_behind_what_computes_them(directory: Path) -> None:
    with AsyncWriter(directory) as writer, torch.cuda.stream(torch.cuda.Stream()):
        for step in range(1, 4):
            weight = torch.full((1000, 1000), 1.0, device="cuda")
            for _ in range(200):
                weight = weight @ torch.eye(1000, device="cuda") + step
            writer.save(step, {"model": {"weight": weight, "t": weight.t()}}, {})
            weight.zero_()
    for found in generations(directory):
        saved = read(found.path).tensors["model"]
        assert saved["weight"].eq(1 + 200 * found.step).all()
        assert torch.equal(saved["t"], saved["weight"].t())


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(last=1), [60]),
        (Keep(last=3), [40, 50, 60]),
        (Keep(last=1, every=30), [30, 60]),
        (Keep(last=1, every=20), [20, 40, 60]),
        (Keep(last=1, best=2), [10, 40, 60]),
        (Keep(last=99), [10, 20, 30, 40, 50, 60]),
    ],
)
def test_what_is_kept(directory: Path, keep: Keep, kept: list[int]) -> None:
    for step, score in zip(range(10, 70, 10), [0.1, 0.9, 0.5, 0.1, 0.2, None], strict=True):
        save(directory, step, score=score)
    removed = prune(directory, keep)
    assert steps(directory) == kept
    assert len(removed) == 6 - len(kept)
    assert not list(directory.glob(f"{TEMPORARY}*"))


def test_keeping_less_than_the_newest_is_refused() -> None:
    for wrong in ({"last": 0}, {"best": -1}, {"every": 0}):
        with pytest.raises(InputError, match="last and every are at least 1"):
            Keep(**wrong)


def test_nothing_is_removed_for_a_newer_one_that_cannot_be_read_back(directory: Path) -> None:
    for step in (1, 2, 3):
        save(directory, step)
    newest_one = generations(directory)[-1].path
    (newest_one / "run.json").write_text("{}")
    with pytest.raises(
        MachineError, match=r"00000003-step-3/run\.json .* no older one was removed"
    ):
        prune(directory, Keep(last=1))
    assert steps(directory) == [1, 2, 3]
    assert prune(directory / "none", Keep()) == []


def test_a_writer_prunes_behind(directory: Path) -> None:
    with AsyncWriter(directory, Keep(last=2)) as writer:
        for seed in range(5):
            writer.save(seed, *content(seed))
    assert steps(directory) == [3, 4]


def test_what_a_dead_process_left_is_removed_by_the_next_holder(directory: Path) -> None:
    save(directory, 1)
    left = directory / f"{TEMPORARY}0123"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / "folder").mkdir()
    (directory / f"{TEMPORARY}file").write_bytes(b"")
    (directory / f"{TEMPORARY}link").symlink_to(directory / "00000001-step-1")
    with hold(directory):
        assert sorted(p.name for p in directory.iterdir()) == ["00000001-step-1", "lock"]
        held = pytest.raises(MachineError, match=f"is held by process {os.getpid()} on")
        with held, hold(directory):
            pass


def test_a_number_that_another_process_took_is_never_overwritten(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(directory, 5, seed=1)
    honest, blind = generations_module.generations, [True, True]

    def stale(place: Path) -> list[generations_module.Generation]:
        return [] if blind and blind.pop() else honest(place)

    monkeypatch.setattr(commit_module, "generations", stale)
    path = save(directory, 5, seed=2)
    assert path.name == "00000002-step-5"
    for found, seed in zip(generations(directory), (1, 2), strict=True):
        is_content(read(found.path), seed)
