"""Tensors keep every bit, and the safetensors library reads and writes the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.checkpoint.conftest import content, same_tensors

from rheostat.checkpoint import tensors as tensors_module
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.layout import ALIGNMENT, lay_out, parse_header
from rheostat.checkpoint.tensors import DTYPES, assemble, parts
from rheostat.core.errors import InputError

COMPLEX = (torch.complex32, torch.complex64, torch.complex128)


def files(given: dict[str, dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """The contents of the files for these tensors."""
    whole = {part.file: b"".join(bytes(piece) for piece in part.pieces()) for part in parts(given)}
    return {name: np.frombuffer(data, np.uint8).copy() for name, data in whole.items()}


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A tensor of any bits at all: NaN with payloads, infinities, denormals."""
    size = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    raw = np.random.default_rng(seed).integers(0, high, (*shape, size), dtype=np.uint8)
    return torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(shape)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5), (0,), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES.values(), *COMPLEX], ids=str)
def test_every_dtype_and_shape_comes_back_to_the_bit(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = random_bits(dtype, shape)
    same_tensors(assemble(files({"a": {"t": tensor}}))["a"], {"t": tensor})


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@given(st.lists(st.sampled_from([*DTYPES.values(), *COMPLEX]), max_size=6), st.integers(0, 99))
def test_mixtures_lie_aligned_without_a_gap(dtypes: list[torch.dtype], seed: int) -> None:
    shapes = [(i % 3, i + 1) for i in range(len(dtypes))]
    pairs = zip(dtypes, shapes, strict=True)
    given = {f"t{i}": random_bits(d, shape, seed) for i, (d, shape) in enumerate(pairs)}
    made = files({"a": given})
    same_tensors(assemble(made)["a"], given)
    (part,) = parts({"a": given})
    assert len(part.layout.header("a")) % ALIGNMENT == 0
    for name, entry in part.layout.entries.items():
        assert not entry.begin % max(1, part.sources[name].element_size())


def test_the_library_reads_our_files(tmp_path: Path) -> None:
    given, _ = content(3)
    given["model"]["größe 😀"] = torch.ones(2)
    for name, data in files(given).items():
        data.tofile(tmp_path / name)
        read = safetensors.torch.load_file(tmp_path / name)
        named = given[name.removesuffix(".safetensors")]
        pairs = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in named.items()}
        pairs.pop("tied", None)
        same_tensors(read, pairs)


def test_we_read_the_librarys_files() -> None:
    plain = {str(d): random_bits(d, (3, 5)) for d in DTYPES.values() if d != torch.float8_e8m0fnu}
    plain |= {"odd": torch.zeros(1, dtype=torch.uint8), "größe 😀": torch.ones(2)}
    content = np.frombuffer(safetensors.torch.save(plain), np.uint8).copy()
    same_tensors(assemble({"a.safetensors": content})["a"], plain)


def test_ties_survive_and_overlaps_are_parted() -> None:
    base = torch.arange(6.0)
    given = {
        "b": base,
        "a": base,
        "c": base.view(2, 3),
        "d": base[1:],
        "e": base[:0],
        "f": base[:0],
    }
    back = assemble(files({"m": given}))["m"]
    same_tensors(back, given)
    assert back["a"] is back["b"]
    back["c"][0, 0] = 9
    assert back["a"][0] == 0
    assert back["d"].data_ptr() != back["a"].data_ptr()


def test_lazy_conjugates_and_negatives_are_saved_as_they_read() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    given = {"z": z, "conj": z.conj(), "neg": z.conj().imag, "real": z.real}
    assert given["neg"].is_neg()
    back = assemble(files({"m": given}))["m"]
    for name, tensor in given.items():
        assert torch.equal(back[name], tensor), name


def test_large_files_are_split_between_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors_module, "PART", 100)
    shared = torch.ones(3, dtype=torch.complex64)
    given = {f"t{i}": torch.full((i,), float(i)) for i in range(30)}
    given |= {"one": shared, "other": shared}
    made = files({"m": given})
    assert len(made) > 10
    assert sorted(made) == [f"m.{i:04d}.safetensors" for i in range(len(made))]
    assert all(data.size <= 100 + 1024 or len(made) for data in made.values())
    back = assemble(made)["m"]
    same_tensors(back, given)
    assert back["one"] is back["other"]
    made["m.0001.safetensors"] = made["m.0000.safetensors"]
    with pytest.raises(DamageError, match="twice"):
        assemble(made)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a": {"s": torch.eye(2).to_sparse()}}, "a: the tensor 's' is sparse"),
        ({"a": {"m": torch.empty(2, device="meta")}}, "on meta"),
        ({"a": {"__metadata__": torch.ones(1)}}, "named so"),
        ({"a": {"\ud800": torch.ones(1)}}, "named so"),
        ({"../a": {}}, "cannot be named '../a'"),
        ({"A": {}}, "lower case"),
        ({"manifest": {}}, "manifest"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    tensors: dict[str, dict[str, torch.Tensor]], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        parts(tensors)


def test_a_subclass_is_more_than_its_bytes_and_a_parameter_is_not() -> None:
    class Scaled(torch.Tensor):
        pass

    with pytest.raises(InputError, match="is a Scaled"):
        parts({"a": {"t": torch.ones(2).as_subclass(Scaled)}})
    weight = torch.nn.Parameter(torch.ones(2))
    back = assemble(files({"a": {"t": weight}}))["a"]["t"]
    assert not back.requires_grad


def forged(table: dict[str, object], data: bytes = b"", length: int | None = None) -> np.ndarray:
    """A file with this header."""
    text = json.dumps(table).encode()
    count = len(text) if length is None else length
    return np.frombuffer(count.to_bytes(8, "little") + text + data, np.uint8).copy()


def entry(dtype: str = "U8", shape: object = (4,), begin: object = 0, end: object = 4) -> object:
    """A header's entry, right by default for four bytes of data."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("table", "data", "says"),
    [
        ({"t": entry(shape=[2**47, 2**47])}, b"1234", "no dtype, shape and matching"),
        ({"t": entry(shape=[2**47], end=2**47)}, b"1234", "its tensors take"),
        ({"t": entry(shape=[1] * 65 + [4])}, b"1234", "no dtype, shape"),
        ({"t": entry(shape=[-4])}, b"1234", "no dtype, shape"),
        ({"t": entry(shape=[True, 4])}, b"1234", "no dtype, shape"),
        ({"t": entry(shape=4)}, b"1234", "no dtype, shape"),
        ({"t": entry(begin=-4, end=0)}, b"1234", "no dtype, shape"),
        ({"t": entry(begin=0.0)}, b"1234", "no dtype, shape"),
        ({"t": entry(dtype="F31")}, b"1234", "unknown dtype"),
        ({"t": entry(dtype="BOOL")}, b"1234", "beyond 0 and 1"),
        ({"t": {"dtype": "U8"}}, b"", "no dtype, shape"),
        ({"t": None}, b"", "no dtype, shape"),
        ({"t": entry(shape=[3], begin=1)}, b"1234", "gap"),
        ({"t": entry(), "u": entry(shape=[2], begin=2)}, b"1234", "overlap"),
        ({"t": entry(), "u": entry()}, b"1234", "overlap"),
        ({"t": entry()}, b"12345", "it has 5"),
        ({"t": entry()}, b"123", "it has 3"),
        ({"__metadata__": {"a": 1}, "t": entry()}, b"1234", "notes"),
        ({"__metadata__": [1], "t": entry()}, b"1234", "notes"),
        ({"__metadata__": {"complex:t": "complex64"}, "t": entry()}, b"1234", "no pairs"),
        ({"__metadata__": {"complex:x": "complex64"}, "t": entry()}, b"1234", "no pairs"),
        ({"__metadata__": {"tied:x": "y"}, "t": entry()}, b"1234", "tied"),
        ({"__metadata__": {"tied:t": "t"}, "t": entry()}, b"1234", "tied"),
        ({"__metadata__": {"tied:a": "b", "tied:b": "a"}, "t": entry()}, b"1234", "tied"),
    ],
)
def test_hostile_headers_are_refused(table: dict[str, object], data: bytes, says: str) -> None:
    with pytest.raises(DamageError, match=says):
        assemble({"a.safetensors": forged(table, data)})


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**9, 100, 0])
def test_hostile_header_lengths_are_refused(length: int) -> None:
    with pytest.raises(DamageError, match=r"header of|not JSON"):
        assemble({"a.safetensors": forged({"t": entry()}, b"1234", length)})
    with pytest.raises(DamageError, match="header of"):
        assemble({"a.safetensors": np.zeros(5, np.uint8)})


def test_the_layouts_own_header_parses_to_itself() -> None:
    layout = lay_out({"a": ("U8", (3,)), "b": ("F64", (2,))}, {"tied:c": "a"})
    header = layout.header("it")
    assert list(layout.entries) == ["b", "a"]
    assert parse_header(header, len(header) + layout.size, "it") == layout
