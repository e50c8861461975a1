"""Tensors as the bytes of safetensors files, and back.

Values, dtypes and shapes are kept to the bit; strides, devices and `requires_grad` are not. A
tensor that is the same memory as an earlier one of its mapping (tied weights) is saved once and
comes back tied; views that overlap otherwise come back as tensors of their own. Complex tensors are
saved as pairs of reals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.layout import COMPLEX, TIED, Layout, header_length, lay_out, parse_header
from rheostat.checkpoint.manifest import check_stem, tensor_file
from rheostat.core.errors import InputError

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

PART = 256 << 20
"""A file's data is split between tensors where it grows beyond this, to be read side by side."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Part:
    """One safetensors file to be: its name, its layout, and where each tensor comes from."""

    file: str
    layout: Layout
    sources: Mapping[str, Tensor]

    def devices(self) -> set[torch.device]:
        """The CUDA devices that its tensors are on."""
        return {tensor.device for tensor in self.sources.values() if tensor.is_cuda}

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The file's bytes, straight from the tensors' memory where it allows that."""
        yield self.layout.header(self.file)
        for name in self.layout.entries:
            yield _bytes_of(self.sources[name]).data


def parts(tensors: Mapping[str, Mapping[str, Tensor]]) -> list[Part]:
    """The files for these tensors (file -> name -> tensor).

    Raises:
        InputError: a file or tensor cannot be named so; a sparse, quantized or meta tensor.
    """
    found: list[Part] = []
    for file, named in tensors.items():
        check_stem(file, "a tensor file")
        notes: dict[str, str] = {}
        sources = _sources(file, named, notes)
        split = _split(sources)
        for i, names in enumerate(split):
            label = f"{file}.safetensors" if len(split) == 1 else f"{file}.{i:04d}.safetensors"
            specs = {n: (_NAMES[sources[n].dtype], tuple(sources[n].shape)) for n in names}
            complexes = {COMPLEX + n for n in names}
            ties_here = i == 0  # whichever part the tensors are in
            said = {
                key: note
                for key, note in notes.items()
                if key in complexes or (ties_here and key.startswith(TIED))
            }
            found.append(Part(label, lay_out(specs, said), {n: sources[n] for n in names}))
    return found


def assemble(files: Mapping[str, Bytes]) -> dict[str, dict[str, Tensor]]:
    """The tensors in the whole contents of these files, which they share; `DamageError` where a
    file is not what `parts` makes.
    """
    found: dict[str, dict[str, Tensor]] = {}
    ties: dict[str, dict[str, str]] = {}
    for label, content in files.items():
        file = tensor_file(label)
        assert file is not None
        length = header_length(content[:8].tobytes(), content.size, label)
        layout = parse_header(content[:length].tobytes(), content.size, label)
        named = found.setdefault(file, {})
        for name, entry in layout.entries.items():
            if name in named:
                raise DamageError(f"{label}: the tensor {name[:80]!r} is there twice")
            span = content[length + entry.begin : length + entry.end]
            tensor = _tensor(span, DTYPES[entry.dtype], entry.shape)
            if entry.dtype == "BOOL" and bool((span > 1).any()):
                raise DamageError(f"{label}: {name[:80]!r} is bool and has values beyond 0 and 1")
            named[name] = (
                torch.view_as_complex(tensor) if COMPLEX + name in layout.notes else tensor
            )
        for key, target in layout.notes.items():
            if key.startswith(TIED):
                ties.setdefault(file, {})[key.removeprefix(TIED)] = target
    for file, tied in ties.items():
        saved = dict(found[file])
        for name, target in tied.items():
            if name in saved or target not in saved:
                raise DamageError(
                    f"{file}: {name[:80]!r} is tied to {target[:80]!r}, which is not so"
                )
            found[file][name] = saved[target]
    return found


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a CPU tensor, a row for each element."""
    size = tensor.element_size()
    return torch.from_numpy(_bytes_of(tensor)).reshape(-1, size)


def _sources(file: str, named: Mapping[str, Tensor], notes: dict[str, str]) -> dict[str, Tensor]:
    """What is saved of a file's tensors, real and once; `notes` gets what was changed."""
    sources: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, given in named.items():
        tensor = given.detach()
        _check(file, name, tensor)
        if tensor.numel():
            memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            owner = first.setdefault((*memory, tensor.is_conj(), tensor.is_neg()), name)
            if owner != name:
                notes[TIED + name] = owner
                continue
        if tensor.is_complex():
            notes[COMPLEX + name] = str(tensor.dtype).removeprefix("torch.")
            tensor = torch.view_as_real(tensor.resolve_conj())
        sources[name] = tensor.resolve_neg()
    return sources


def _check(file: str, name: object, tensor: Tensor) -> None:
    where = f"{file}: the tensor {name!r}"
    if not isinstance(name, str) or name == "__metadata__" or not _is_text(name):
        raise InputError(f"{where} cannot be named so: a string of Unicode text, not __metadata__")
    if type(tensor) is not Tensor:  # a DTensor, a quantized weight: more than its bytes
        raise InputError(f"{where} is a {type(tensor).__name__}: save the plain tensor in it")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(
            f"{where} is {'on meta' if tensor.is_meta else 'sparse'}: save a dense one"
        )
    if not tensor.is_complex() and tensor.dtype not in _NAMES:
        raise InputError(f"{where} is of {tensor.dtype}, which safetensors files cannot hold")


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _split(sources: Mapping[str, Tensor]) -> list[list[str]]:
    """The names in groups of at most `PART` bytes, or one larger tensor alone."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in sources.items():
        if groups[-1] and size + tensor.nbytes > PART:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    return groups


def _bytes_of(tensor: Tensor) -> Bytes:
    """The bytes of a tensor in the order of its indices; a view where that is possible."""
    flat = tensor.contiguous().cpu().reshape(-1)
    # numpy does not know bfloat16; bytes are bytes.
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def _tensor(span: Bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor over these bytes; a copy where they do not lie aligned."""
    if not span.size:
        return torch.empty(shape, dtype=dtype)
    if span.ctypes.data % dtype.itemsize:
        span = span.copy()
    return torch.from_numpy(span).view(dtype).reshape(shape)
