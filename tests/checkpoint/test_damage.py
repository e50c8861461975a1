"""Whatever is done to the bytes of a checkpoint is found before a tensor is returned."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoint.conftest import content, is_content, same_tensors, save

from rheostat.checkpoint import tensors as tensors_module
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.load import newest, read
from rheostat.checkpoint.save import write
from rheostat.checkpoint.verify import verify


def flip_every_byte(path: Path, masks: Callable[[int], list[int]]) -> int:
    """Flip each byte of each file by each mask, one at a time; return how many flips were found."""
    found = 0
    for file in sorted(path.iterdir()):
        good = file.read_bytes()
        with file.open("r+b", buffering=0) as open_file:
            for place in range(len(good)):
                for mask in masks(place):
                    open_file.seek(place)
                    open_file.write(bytes([good[place] ^ mask]))
                    with pytest.raises(DamageError):
                        read(path)
                    found += 1
                open_file.seek(place)
                open_file.write(good[place : place + 1])
        assert file.read_bytes() == good
    is_content(read(path), 1)
    return found


def test_every_byte_flipped_one_at_a_time(directory: Path) -> None:
    path = save(directory, 1)
    size = sum(file.stat().st_size for file in path.iterdir())
    assert flip_every_byte(path, lambda place: [1 << place % 8]) == size > 1000


@pytest.mark.faults
@pytest.mark.slow
def test_every_bit_flipped_one_at_a_time(directory: Path) -> None:
    path = save(directory, 1)
    size = sum(file.stat().st_size for file in path.iterdir())
    masks = [1 << bit for bit in range(8)]
    assert flip_every_byte(path, lambda _: masks) == 8 * size


def harm(path: Path, other: Path, chance: random.Random) -> str:
    """Damage the checkpoint at `path` in some way; `other` is another one. Returns the way."""
    files = sorted(path.iterdir())
    file = chance.choice(files)
    data = bytearray(file.read_bytes())
    way = chance.choice(
        ["flip", "flips", "zero", "cut", "grow", "shift", "swap", "older", "missing", "empty"]
    )
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.randint(1, 5000))
    if way == "flip":
        data[begin] ^= 1 << chance.randrange(8)
    elif way == "flips":
        for place in chance.sample(range(len(data)), min(20, len(data))):
            data[place] ^= chance.randint(1, 255)
    elif way == "zero":
        data[begin:end] = bytes(end - begin)
    elif way == "cut":
        del data[begin:]
    elif way == "grow":
        data += chance.randbytes(chance.randint(1, 4096))
    elif way == "shift":
        data = data[:begin] + data[end:] + data[begin:end]
    elif way == "swap":  # with another file of the same checkpoint
        with_whom = chance.choice(files)
        mine = with_whom.read_bytes()
        with_whom.write_bytes(data)
        data = bytearray(mine)
    elif way == "older":  # the same file of another checkpoint
        data = bytearray((other / file.name).read_bytes())
    elif way == "empty":
        data = bytearray()
    if way == "missing":
        file.unlink()
    else:
        file.write_bytes(data)
    return way


def random_damage(directory: Path, rounds: int, seed: int) -> set[str]:
    """Damage the newest of two larger checkpoints `rounds` times; return the ways that were."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    states = [
        {
            "model": {f"{i}.weight": torch.randn(64, 33, generator=generator) for i in range(9)},
            "optimizer": {
                f"{i}.exp_avg": torch.randn(64, 33, generator=generator) for i in range(9)
            },
            "rng": {"torch": torch.randint(256, (5056,), generator=generator).byte()},
        }
        for _ in range(2)
    ]
    older = write(directory, 1, states[0], {"run": {"step": 1}, "recipe": {"lr": 0.1}})
    newer = write(directory, 2, states[1], {"run": {"step": 2}, "recipe": {"lr": 0.1}})
    assert len(list(newer.iterdir())) > 9
    good = {file.name: file.read_bytes() for file in newer.iterdir()}
    ways: set[str] = set()
    for _ in range(rounds):
        way = harm(newer, older, chance)
        left = {file.name: file.read_bytes() for file in newer.iterdir()}
        if left != good:
            ways.add(way)
            with pytest.raises(DamageError):
                newest(directory, fall_back=False)
            with pytest.raises(DamageError):
                verify(newer)
            found = newest(directory)
            assert found is not None
            assert found.path == older
            assert len(found.passed_over) == 1
            assert found.passed_over[0].startswith(str(newer))
            for file, named in states[0].items():
                same_tensors(found.tensors[file], named)
        for name in {*good, *left}:
            if left.get(name) != good.get(name):
                (newer / name).write_bytes(good[name])
    found = newest(directory)
    assert found is not None
    assert found.path == newer
    return ways


@pytest.mark.parametrize(
    "rounds",
    [
        60,
        pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.faults]),
    ],
)
def test_random_damage_to_larger_ones(
    directory: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    monkeypatch.setattr(tensors_module, "PART", 30_000)  # several parts a file
    assert len(random_damage(directory, rounds, seed=rounds)) == 10


def test_any_file_missing_and_any_folder_half_copied(directory: Path, tmp_path: Path) -> None:
    path = save(directory, 1)
    names = sorted(file.name for file in path.iterdir())
    for count in range(len(names)):
        half = tmp_path / f"half-{count}"
        half.mkdir()
        for name in names[:count]:
            shutil.copy(path / name, half / name)
        with pytest.raises(DamageError):
            read(half)
    assert content(1)[1] == read(path).documents
