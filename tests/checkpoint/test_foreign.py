"""torch's files become checkpoints and come back to the bit; code in them is refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoint.conftest import content, same_tensors

from rheostat.checkpoint.compare import differences
from rheostat.checkpoint.foreign import from_torch, to_torch
from rheostat.checkpoint.load import read
from rheostat.checkpoint.save import write
from rheostat.core.errors import InputError, MachineError


def trained() -> dict[str, Any]:
    """What a training script saves: a model with tied weights, an optimizer, a few numbers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    opt = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.99))
    model(torch.ones(2, 3)).sum().backward()
    opt.step()
    return {
        "model": model.state_dict(),
        "optimizer": opt.state_dict(),
        "epoch": 3,
        "best": float("inf"),
        "by.name": {"a": torch.arange(3)},
        "by": {"name": {"a": torch.arange(4)}},
        "history": [(1, 0.5), (2, None)],
        "flags": {True: "yes", 2.5: "half"},
    }


def same(one: Any, other: Any) -> None:
    """Assert equality in value and type, through every container."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        same_tensors({"t": one}, {"t": other})
    elif isinstance(one, dict):
        assert [(key, type(key)) for key in one] == [(key, type(key)) for key in other]
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert repr(one) == repr(other)


def test_there_and_back_is_the_same_to_the_bit(directory: Path, tmp_path: Path) -> None:
    given = trained()
    torch.save(given, tmp_path / "old.pt")
    path = from_torch(tmp_path / "old.pt", directory, step=12)
    found = read(path)
    assert found.step == 12
    to_torch(found, tmp_path / "new.pt")
    back = torch.load(tmp_path / "new.pt", weights_only=True)
    assert isinstance(back["model"], OrderedDict)
    back["model"]._metadata = given["model"]._metadata  # torch's own note, not part of the dict
    same(back, given)
    weights = [back["model"][f"{i}.weight"] for i in (0, 1)]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    size, original = ((tmp_path / name).stat().st_size for name in ("new.pt", "old.pt"))
    assert size < 1.5 * original
    again = from_torch(tmp_path / "new.pt", directory, step=12)
    assert differences(found, read(again)) == []


def test_any_checkpoint_becomes_a_torch_file(directory: Path, tmp_path: Path) -> None:
    tensors, documents = content(2)
    to_torch(read(write(directory, 9, tensors, documents)), tmp_path / "out.pt")
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (back["step"], back["documents"]) == (9, documents)
    for file, named in tensors.items():
        same_tensors(back["tensors"][file], named)
    with pytest.raises(InputError, match="is there already"):
        to_torch(read(write(directory, 9, tensors, documents)), tmp_path / "out.pt")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_code_is_refused_and_does_not_run(directory: Path, tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be read as plain data") as caught:
        from_torch(tmp_path / "evil.pt", directory)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()
    assert not directory.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": {"b": {1, 2}}}, r"a\.b is a set"),
        ({"a": [torch.float32]}, r"a\.0 is a dtype"),
        ({(1, 2): 3}, "the file has the key"),
        ({"a": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(
    directory: Path, tmp_path: Path, value: Any, says: str
) -> None:
    torch.save(value, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=says):
        from_torch(tmp_path / "odd.pt", directory)
    assert not directory.exists()


def test_files_that_are_none(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        from_torch(tmp_path / "none.pt", directory)
    for name, data in (("text.pt", b"hello"), ("empty.pt", b""), ("zip.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as plain data"):
            from_torch(tmp_path / name, directory)
    found = read(write(directory, 1, *content(1)))
    with pytest.raises(MachineError, match="cannot write"):
        to_torch(found, tmp_path / "no" / "folder.pt")
