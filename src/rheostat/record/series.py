"""A run's columns, and their Parquet file: one row a step, page checksums on.

Page checksums do not cover a Parquet file's footer (names, types, counts), so the footer also
carries a seal: the SHA-256 of the whole file, taken while the seal's own digits are zeros.
Reading checks both, so any changed byte is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rheostat.core.durable import canonical_json, disk_errors, write_file
from rheostat.core.errors import InputError, MachineError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

TEXTS = ("batch", "weights", "rng")
"""The columns of fingerprints."""

RESERVED = ("step", *TEXTS)
_KEY = b"rheostat.series"
_FORMAT = 1
_BLANK = b"0" * 64
_SEAL = re.compile(rb'"seal":"([0-9a-f]{64})"')


@dataclass(frozen=True, eq=False)
class Series:
    """What a run recorded at each step, as columns of equal length.

    `steps` (int64) numbers the rows, `values` are float64 columns by name. The others are
    fingerprints, "" where there is none: of the batches, of the weights after each step, and of the
    state of the random generators, which proves nothing (equal runs may differ in it) and explains
    much. The arrays are read-only.
    """

    steps: Ints
    values: Mapping[str, Floats]
    batches: tuple[str, ...]
    weights: tuple[str, ...] = ()
    rng: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("weights", "rng"):
            object.__setattr__(self, name, getattr(self, name) or ("",) * self.steps.size)
        columns = {name: np.array(self.values[name], dtype=np.float64) for name in self.values}
        for name, column in columns.items():
            if name in RESERVED or column.shape != self.steps.shape:
                raise ValueError(f"series {name!r}: shape {column.shape}, steps {self.steps.shape}")
            column[np.isnan(column)] = np.nan  # a NaN has many bit patterns; the record has one
            column.flags.writeable = False
        steps = np.array(self.steps, dtype=np.int64)
        steps.flags.writeable = False
        for texts in (self.batches, self.weights, self.rng):
            if len(texts) != steps.size:
                raise ValueError(f"{len(texts)} fingerprints for {steps.size} steps")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", {name: columns[name] for name in sorted(columns)})

    def digest(self) -> str:
        """SHA-256 over names, lengths and every bit of the columns but `rng`."""
        head = [self.steps.size, list(self.values), list(self.batches), list(self.weights)]
        total = hashlib.sha256(canonical_json(head).encode("ascii"))
        total.update(self.steps.astype("<i8").tobytes())
        for column in self.values.values():
            total.update(column.astype("<f8").tobytes())
        return total.hexdigest()


def write_series(path: Path, series: Series, source: str = "") -> None:
    """Write `series` durably as Parquet; equal input gives equal bytes.

    `source` names what the columns were made from (a digest), for `read_series` to compare.
    Raises `MachineError` where pyarrow is missing or the disk refuses.
    """
    arrow, parquet = _pyarrow()
    columns: dict[str, Any] = {
        "step": arrow.array(series.steps),
        **{
            name: arrow.array(list(texts), type=arrow.string())
            for name, texts in zip(TEXTS, (series.batches, series.weights, series.rng), strict=True)
        },
    }
    for name, column in series.values.items():
        columns[name] = arrow.array(column)
    about = canonical_json({"format": _FORMAT, "seal": _BLANK.decode("ascii"), "source": source})
    table = arrow.table(columns).replace_schema_metadata({_KEY: about.encode("ascii")})
    buffer = io.BytesIO()
    parquet.write_table(
        table, buffer, compression="zstd", use_dictionary=False, write_page_checksum=True
    )
    data = buffer.getvalue()
    _, start, digest = _seal(data)
    write_file(path, data[:start] + digest + data[start + len(digest) :])


def read_series(path: Path, source: str | None = None) -> Series:
    """Read what `write_series` wrote.

    Raises `InputError` naming the file where it is missing, damaged (the seal or a
    page checksum does not fit), or was made from another `source` than the one given;
    `MachineError` where pyarrow is missing or the disk fails.
    """
    arrow, parquet = _pyarrow()
    with disk_errors("read", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"there is no series file at {path}") from error
    try:
        series, made_from = _decode(arrow, parquet, data)
    except Exception as error:  # whatever a damaged file makes the reader raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is damaged: {why}; make it again from the run's log") from error
    if source is not None and made_from != source:
        raise InputError(f"{path} was made from another log; make it again from this run's log")
    return series


def _decode(arrow: Any, parquet: Any, data: bytes) -> tuple[Series, str]:
    borne, _, right = _seal(data)
    if borne != right:
        raise ValueError("its bytes do not fit their seal")
    table = parquet.read_table(
        arrow.BufferReader(data), page_checksum_verification=True, use_threads=False
    )
    about: dict[str, object] = json.loads(table.schema.metadata[_KEY])
    if about["format"] != _FORMAT:
        raise ValueError(f"its format is {about['format']}, this rheostat reads {_FORMAT}")
    names: list[str] = [name for name in table.column_names if name not in RESERVED]
    series = Series(
        steps=table.column("step").to_numpy(),
        values={name: table.column(name).to_numpy() for name in names},
        batches=tuple(table.column("batch").to_pylist()),
        weights=tuple(table.column("weights").to_pylist()),
        rng=tuple(table.column("rng").to_pylist()),
    )
    return series, str(about["source"])


def _seal(data: bytes) -> tuple[bytes, int, bytes]:
    """The seal that a file bears, where it stands, and the one that it should bear."""
    # The last: names of columns, which may look like anything, stand before the metadata.
    marks = list(_SEAL.finditer(data))
    if not marks:
        raise ValueError("it bears no seal")
    start, end = marks[-1].span(1)
    digest = hashlib.sha256(data[:start] + _BLANK + data[end:]).hexdigest()
    return data[start:end], start, digest.encode("ascii")


def _pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`, loaded on first use: they are an extra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MachineError(
            'series.parquet needs pyarrow, which is not installed: pip install "rheostat[study]"'
        ) from error
    return pyarrow, pyarrow.parquet
