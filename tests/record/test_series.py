"""A series file gives back every bit it was given, or says that it is damaged."""

from __future__ import annotations

import builtins
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from rheostat.core.errors import InputError, MachineError
from rheostat.record.series import Series, read_series, write_series

WEIRD = [0.0, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 0.1]


def sample(count: int = 9) -> Series:
    steps = np.arange(count, dtype=np.int64) + 4
    loss = np.resize(np.array(WEIRD), count)
    batches = tuple(f"{k:x}é" for k in range(count))
    return Series(steps, {"loss": loss, "lr": loss[::-1]}, batches, batches[::-1], ("r",) * count)


def same(one: Series, other: Series) -> bool:
    return (
        one.digest() == other.digest()
        and one.steps.tobytes() == other.steps.tobytes()
        and list(one.values) == list(other.values)
        and all(one.values[name].tobytes() == other.values[name].tobytes() for name in one.values)
        and one.batches == other.batches
        and (one.weights, one.rng) == (other.weights, other.rng)
    )


@pytest.mark.parametrize("count", [0, 1, 9, 5000])
def test_every_bit_comes_back_and_equal_input_gives_equal_bytes(tmp_path: Path, count: int) -> None:
    write_series(tmp_path / "a", sample(count), "source")
    write_series(tmp_path / "b", sample(count), "source")
    assert same(read_series(tmp_path / "a"), sample(count))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    write_series(path, sample(), "source")
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"series\.parquet is damaged"):
            read_series(path)


def test_names_and_batches_that_look_like_a_seal_do_no_harm(tmp_path: Path) -> None:
    fake = f'"seal":"{"a" * 64}"'
    series = Series(np.arange(2), {fake: np.zeros(2)}, (fake, fake))
    write_series(tmp_path / "file", series, fake)
    assert same(read_series(tmp_path / "file", fake), series)


def test_page_checksums_are_in_the_file(tmp_path: Path) -> None:
    """Without the seal, pyarrow alone must see a flip in the pages."""
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "series.parquet"
    noise = np.random.default_rng(0).standard_normal(5000)
    write_series(path, Series(np.arange(5000), {"loss": noise}, ("",) * 5000))
    data = bytearray(path.read_bytes())
    start = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    data[start + 200] ^= 1
    with pytest.raises(OSError, match="checksum"):
        pyarrow.parquet.read_table(
            pyarrow.BufferReader(bytes(data)), page_checksum_verification=True
        )


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "series.parquet"
    write_series(path, sample())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        read_series(path)


def test_another_source_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    with pytest.raises(InputError, match=f"no series file at {path}"):
        read_series(path)
    write_series(path, sample(), "one")
    assert same(read_series(path, "one"), sample())
    with pytest.raises(InputError, match="another log"):
        read_series(path, "two")


def test_columns_must_fit_and_are_frozen() -> None:
    steps = np.arange(3)
    with pytest.raises(ValueError, match="'loss'"):
        Series(steps, {"loss": np.zeros(2)}, ("",) * 3)
    with pytest.raises(ValueError, match="'step'"):
        Series(steps, {"step": np.zeros(3)}, ("",) * 3)
    with pytest.raises(ValueError, match="2 fingerprints"):
        Series(steps, {}, ("",) * 2)
    series = Series(steps, {"loss": np.zeros(3)}, ("",) * 3)
    with pytest.raises(ValueError, match="read-only"):
        series.values["loss"][0] = 1.0


def test_the_digest_sees_every_part() -> None:
    steps = np.arange(2)
    parts = [
        Series(steps, {"a": np.array([1.0, 2.0])}, ("x", "y")),
        Series(steps + 1, {"a": np.array([1.0, 2.0])}, ("x", "y")),
        Series(steps, {"b": np.array([1.0, 2.0])}, ("x", "y")),
        Series(steps, {"a": np.array([1.0, 3.0])}, ("x", "y")),
        Series(steps, {"a": np.array([1.0, 2.0])}, ("xy", "")),
    ]
    assert len({part.digest() for part in parts}) == len(parts)
    negative_nan = np.array([0x7FF8000000000000, 0xFFF8000000000001], dtype=np.uint64).view(float)
    batched = Series(steps, {}, ("x", "y"))
    assert Series(steps, {}, ("x", "y"), ("w", "")).digest() != batched.digest()
    assert Series(steps, {}, ("x", "y"), rng=("r", "s")).digest() == batched.digest()
    assert Series(steps, {"a": negative_nan}, ("", "")).digest() == (
        Series(steps, {"a": np.array([np.nan, np.nan])}, ("", "")).digest()
    )


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name=name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineError, match=r'pip install "rheostat\[study\]"'):
        write_series(tmp_path / "series.parquet", sample())
    assert list(tmp_path.iterdir()) == []
