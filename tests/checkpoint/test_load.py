"""What is written is read back, the newest that verifies wins, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.conftest import content, is_content, save

from rheostat.checkpoint import manifest as manifests
from rheostat.checkpoint import verify as verify_module
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.generations import generations
from rheostat.checkpoint.load import newest, read
from rheostat.checkpoint.save import write
from rheostat.checkpoint.verify import read_manifest, verify
from rheostat.core.durable import content_hash
from rheostat.core.errors import InputError, MachineError


def rewrite(path: Path, **changes: object) -> None:
    """Forge a manifest that agrees with itself."""
    content = json.loads((path / manifests.NAME).read_text())
    content.pop("sha256")
    content.update(changes)
    text = {**content, "sha256": content_hash(content)}
    (path / manifests.NAME).write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


def test_a_checkpoint_is_read_as_it_was_written(directory: Path) -> None:
    path = save(directory, 200, score=0.25)
    assert path.name == "00000001-step-200"
    found = read(path)
    is_content(found, 200)
    assert (found.step, found.manifest.score) == (200, 0.25)
    assert found.tensors["model"]["tied"] is found.tensors["model"]["weight"]
    assert verify(path) == verify(path, from_disk=True) == found.manifest == read_manifest(path)
    copied = shutil.copytree(path, directory / "kept under another name")
    is_content(read(Path(copied)), 200)


def test_the_number_of_the_save_orders_not_the_step(directory: Path) -> None:
    for step in (100, 300, 200, 200):
        save(directory, step, seed=step)
    numbers = [(found.number, found.step) for found in generations(directory)]
    assert numbers == [(1, 100), (2, 300), (3, 200), (4, 200)]
    found = newest(directory)
    assert found is not None
    assert found.path.name == "00000004-step-200"
    assert found.passed_over == ()


def test_nothing_there_is_none_and_other_names_are_no_checkpoints(directory: Path) -> None:
    assert newest(directory) is None
    directory.mkdir(parents=True)
    for name in (".tmp-0123", "00000001-step-", "1-step-2", "00000001-step-02", "notes"):
        (directory / name).mkdir()
    assert newest(directory) is None


def test_falling_back_is_said_or_refused_as_asked(directory: Path) -> None:
    good, bad = save(directory, 1), save(directory, 2)
    (bad / "model.safetensors").unlink()
    found = newest(directory)
    assert found is not None
    is_content(found, 1)
    assert found.path == good
    (said,) = found.passed_over
    assert "00000002-step-2/model.safetensors is missing" in said
    with pytest.raises(DamageError, match=r"model\.safetensors is missing; an older"):
        newest(directory, fall_back=False)
    (good / "run.json").write_text("{}")
    with pytest.raises(DamageError, match=r"no checkpoint in .* is whole: .*; .*run\.json has 2 b"):
        newest(directory)


def test_another_version_is_neither_damage_nor_passed_over(directory: Path) -> None:
    save(directory, 1)
    rewrite(save(directory, 2), version=2)
    with pytest.raises(
        InputError, match="version 2 of the format, this Rheostat reads 1"
    ) as caught:
        newest(directory)
    assert not isinstance(caught.value, DamageError)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": {"../../evil.safetensors": {"size": 1, "sha256": "0" * 64}}}, "no checkpoint h"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": "0" * 64}}}, "no checkpoint has"),
        ({"files": {"manifest.json": {"size": 1, "sha256": "0" * 64}}}, "no checkpoint has"),
        ({"files": {"a.pt": {"size": 1, "sha256": "0" * 64}}}, "no checkpoint has"),
        ({"files": {"a.json\x00": {"size": 1, "sha256": "0" * 64}}}, "no checkpoint has"),
        ({"files": {"a.json": {"size": 2**60, "sha256": "0" * 64}}}, "is none"),
        ({"files": {"a.json": {"size": -1, "sha256": "0" * 64}}}, "is none"),
        ({"files": {"a.json": {"size": 1, "sha256": "0" * 63}}}, "is none"),
        ({"files": {"a.json": {"size": 1}}}, "does not say"),
        ({"files": {"a.json": None}}, "does not say"),
        ({"files": {"run.json": {"size": 2**40, "sha256": "0" * 64}}}, "its manifest says"),
        ({"files": [1]}, "lacks"),
        ({"step": -1}, "out of range"),
        ({"step": "1"}, "lacks"),
        ({"generation": 0}, "out of range"),
        ({"score": "0.5"}, "lacks"),
        ({"more": 1}, "lacks"),
        ({"format": "pickle"}, "no manifest"),
        ({"step": 5}, "under another name"),
        ({"generation": 2}, "under another name"),
    ],
)
def test_forged_manifests_are_refused(
    directory: Path, changes: dict[str, object], says: str
) -> None:
    path = save(directory, 1)
    rewrite(path, **changes)
    for act in (read, verify):
        with pytest.raises(DamageError, match=says):
            act(path)


def test_swapped_folders_are_noticed(directory: Path) -> None:
    one, other = save(directory, 1), save(directory, 2)
    one.rename(directory / "aside")
    other.rename(one)
    (directory / "aside").rename(other)
    with pytest.raises(DamageError, match=r"under another name.*; .*under another name"):
        newest(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "run.json", "manifest.json"])
def test_links_and_pipes_are_not_followed(directory: Path, tmp_path: Path, name: str) -> None:
    path = save(directory, 1)
    same = tmp_path / "same"
    (path / name).rename(same)
    (path / name).symlink_to(same)
    with pytest.raises(DamageError, match=f"{name} is a symbolic link"):
        read(path)
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(DamageError, match="no regular file"):
        read(path)
    (path / name).unlink()
    (path / name).mkdir()
    with pytest.raises(DamageError, match="no regular file"):
        verify(path)


def test_a_link_in_the_place_of_a_checkpoint_is_not_followed(directory: Path) -> None:
    path = save(directory, 1)
    (directory / "00000002-step-1").symlink_to(path)
    found = newest(directory)
    assert found is not None
    assert found.path == path
    assert "symbolic link" in found.passed_over[0]
    (directory / "00000003-step-9").write_bytes(b"a file")
    with pytest.raises(DamageError, match="is no folder"):
        newest(directory, fall_back=False)


def test_what_is_larger_than_the_memory_is_refused_at_once(directory: Path) -> None:
    path = save(directory, 1)
    size = 1 << 40
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(size)  # of holes
    content = json.loads((path / manifests.NAME).read_text())["files"]
    rewrite(path, files={**content, "model.safetensors": {"size": size, "sha256": "0" * 64}})
    start = time.perf_counter()
    with pytest.raises(MachineError, match="this machine's memory"):
        read(path)
    assert time.perf_counter() - start < 5


def test_a_manifest_without_end_is_refused(directory: Path) -> None:
    path = save(directory, 1)
    with (path / manifests.NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamageError, match="larger than"):
        read(path)


def test_other_files_beside_are_no_matter(directory: Path) -> None:
    path = save(directory, 1)
    (path / "notes.txt").write_text("mine")
    is_content(read(path), 1)


def test_what_may_not_be_read_is_the_machines_fault(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(directory, 1)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MachineError, match="permissions"):
        newest(directory)
    assert path.exists()


def test_a_device_error_is_damage_and_older_ones_are_tried(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(directory, 1)
    save(directory, 2)
    readv, calls = os.readv, 0

    def fail_late(descriptor: int, buffers: list[memoryview]) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(5, "Input/output error")
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", fail_late)
    found = newest(directory)
    assert found is not None
    assert found.step == 1
    assert "the device reports an error" in found.passed_over[0]


def test_verifying_reads_where_files_cannot_be_mapped(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without maps, or where a page of one cannot be fetched."""
    path = write(directory, 1, {"optimizer": {"moment": torch.randn(5000)}}, {})
    whole = verify_module.verify(path)
    monkeypatch.setattr(verify_module, "WINDOW", 1 << 12)
    assert verify_module.verify(path) == whole
    mapped, calls = mmap.mmap, 0

    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            nonlocal calls
            calls += 1
            raise OSError(14, "Bad address")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    assert verify_module.verify(path) == whole
    assert calls > 3

    def refuse(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", refuse)
        with pytest.raises(DamageError, match="the device reports an error"):
            verify_module.verify(path)
    monkeypatch.setattr(mmap, "mmap", mapped)
    data = (path / "optimizer.safetensors").read_bytes()
    real = verify_module._open
    for cut in (1, 5000):
        monkeypatch.setattr(verify_module, "_open", _shrinking(real, path, cut))
        with pytest.raises(DamageError, match="is not as it was written"):
            verify_module.verify(path)
        (path / "optimizer.safetensors").write_bytes(data)


def _shrinking(real: Any, path: Path, cut: int) -> Any:
    """Opens as `verify` does, and cuts the optimizer's file once it is open."""

    @contextlib.contextmanager
    def opened(folder: int, name: str, what: str, file: Any) -> Iterator[int]:
        with real(folder, name, what, file) as descriptor:
            if name == "optimizer.safetensors":
                os.truncate(path / name, (path / name).stat().st_size - cut)
            yield descriptor

    return opened


def test_large_files_are_read_side_by_side(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "SMALL", 0)
    path = save(directory, 3)
    is_content(read(path), 3)
    data = bytearray((path / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(DamageError, match="optimizer"):
        read(path)


def test_a_file_that_changes_while_it_is_read_gives_the_bytes_that_were_hashed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(directory, 3)
    compare = verify_module._compare

    def then_overwrite(*arguments: object) -> None:
        compare(*arguments)
        if "model" in str(arguments[-1]):
            (path / "model.safetensors").write_bytes(b"\xff" * 2000)

    monkeypatch.setattr(verify_module, "_compare", then_overwrite)
    is_content(read(path), 3)
    with pytest.raises(DamageError):
        read(path)


def test_writing_reports_bad_input_before_anything_is_made(directory: Path) -> None:
    tensors, documents = content()
    for call in (
        lambda: write(directory, -1, tensors, documents),
        lambda: write(directory, 10**15, tensors, documents),
        lambda: write(directory, 1, tensors, {"manifest": {}}),
        lambda: write(directory, 1, tensors, {"run": {"a": object()}}),
        lambda: write(directory, 1, tensors, {"a/b": {}}),
        lambda: write(directory, 1, tensors, documents, score=float("nan")),
    ):
        with pytest.raises(InputError):
            call()
    assert not directory.exists()
