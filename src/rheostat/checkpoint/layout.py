"""The layout of a safetensors file: which bytes are which tensor. Knows no torch.

The format (https://huggingface.co/docs/safetensors): eight bytes, the length of the header as
a little-endian integer; the header, JSON that gives each tensor its dtype, shape and offsets; the
data. Written and parsed here, not by the library of that name, so that files are hashed while they
stream and the bytes that are parsed are the bytes that were hashed. What the format lacks is said
in its `__metadata__`: `complex:NAME` (saved as pairs of reals) and `tied:NAME` (not saved: the same
memory as the tensor that the note names).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.documents import MAX_BYTES, parse
from rheostat.core.errors import InputError

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "I8", "U8"), 1),
    **dict.fromkeys(("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
"""The dtypes that are saved, by the format's names."""

ALIGNMENT = 64
"""Data begins at a multiple of this, so that every tensor lies aligned in memory."""

METADATA = "__metadata__"
COMPLEX, TIED = "complex:", "tied:"


@dataclass(frozen=True)
class Entry:
    """One tensor: its dtype by the format's name, its shape, and its bytes within the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The tensors of one file in the order of their bytes, without a gap, and its notes."""

    entries: Mapping[str, Entry]
    notes: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def size(self) -> int:
        """Bytes of data."""
        return max((entry.end for entry in self.entries.values()), default=0)

    def header(self, what: str) -> bytes:
        """The bytes before the data, padded with spaces; `InputError` where they are too many."""
        table: dict[str, object] = {METADATA: dict(self.notes)} if self.notes else {}
        for name, entry in self.entries.items():
            table[name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [entry.begin, entry.end],
            }
        text = json.dumps(table, separators=(",", ":")).encode("ascii")
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        if len(text) > MAX_BYTES:
            raise InputError(f"{what} names {len(self.entries):,} tensors: too many for one file")
        return len(text).to_bytes(8, "little") + text


def lay_out(tensors: Mapping[str, tuple[str, Sequence[int]]], notes: Mapping[str, str]) -> Layout:
    """Place tensors (name -> dtype, shape) one after the other, those of large items first."""
    entries: dict[str, Entry] = {}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda t: -ITEM_BYTES[t[1][0]]):
        begin, end = end, end + ITEM_BYTES[dtype] * math.prod(shape)
        entries[name] = Entry(dtype, tuple(shape), begin, end)
    return Layout(entries, notes)


def header_length(first: bytes, file_size: int, what: str) -> int:
    """Bytes before the data, from the first eight of the file; `DamageError` where it cannot be."""
    length = int.from_bytes(first, "little")
    if len(first) != 8 or length > min(MAX_BYTES, file_size - 8):
        raise DamageError(f"{what}: a header of {length:,} bytes in a file of {file_size:,}")
    return 8 + length


def parse_header(header: bytes, file_size: int, what: str) -> Layout:
    """The layout that a file's first `header_length` bytes describe.

    Raises:
        DamageError: where it is not a layout that fills the file exactly, without gap or overlap.
    """
    table = parse(header[8:], f"the header of {what}")
    notes: object = table.pop(METADATA, {})
    entries = {name: _entry(name, value, what) for name, value in table.items()}
    in_order = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    end = 0
    for name, entry in in_order.items():
        if entry.begin != end:
            raise DamageError(f"{what}: the bytes of {name[:80]!r} leave a gap or overlap others")
        end = entry.end
    if end != file_size - len(header):
        raise DamageError(
            f"{what}: its tensors take {end:,} bytes, it has {file_size - len(header):,}"
        )
    return Layout(in_order, _notes(notes, in_order, what))


def _entry(name: str, value: object, what: str) -> Entry:
    parts = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if parts.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape, offsets = parts["dtype"], _sizes(parts["shape"]), parts["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise DamageError(f"{what}: {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")
        span = _sizes(offsets)
        if shape is not None and span is not None and len(span) == 2:
            entry = Entry(dtype, shape, *span)
            if entry.end - entry.begin == ITEM_BYTES[dtype] * math.prod(shape):
                return entry
    raise DamageError(f"{what}: the entry of {name[:80]!r} is no dtype, shape and matching offsets")


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of sizes, whose product Python computes at once; None for anything else."""
    if not isinstance(value, list):
        return None
    sizes = cast("list[int]", value)
    # bool is an int to Python, and no size.
    sound = len(sizes) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in sizes)
    return tuple(sizes) if sound else None


def _notes(value: object, entries: Mapping[str, Entry], what: str) -> dict[str, str]:
    notes = cast("dict[str, object]", value) if isinstance(value, dict) else {"": None}
    for key, note in notes.items():
        if not isinstance(note, str):
            raise DamageError(f"{what}: the notes of the header are not strings by name")
        name = key.removeprefix(COMPLEX)
        if name != key:
            entry = entries.get(name)
            halves = entry is not None and entry.dtype in ("F16", "F32", "F64")
            if entry is None or not halves or entry.shape[-1:] != (2,):
                raise DamageError(f"{what}: {name[:80]!r} is noted as complex and is no pairs")
    return cast("dict[str, str]", notes)
