"""The manifest of a checkpoint: which files it has, their sizes and their SHA-256.

It is written last and holds the hash of its own content besides, so a checkpoint without a
manifest that is right in every byte is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, cast

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.documents import parse
from rheostat.core.durable import content_hash
from rheostat.core.errors import InputError

NAME = "manifest.json"
FOLDER = re.compile(r"([0-9]{8})-step-(0|[1-9][0-9]{0,14})")
"""The name of a generation's folder: its number and its step."""

FORMAT = "rheostat checkpoint"
VERSION = 1
MAX_BYTES = 4 << 20
MAX_STEP = 10**15
MAX_GENERATION = 10**8

_STEM = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TENSORS = re.compile(r"([a-z][a-z0-9_]{0,63})(?:\.([0-9]{4}))?\.safetensors")
_DOCUMENT = re.compile(r"([a-z][a-z0-9_]{0,63})\.json")
_FIELDS: Mapping[str, type | UnionType] = {
    "generation": int,
    "step": int,
    "written": str,
    "score": float | None,
    "files": dict,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """One file of a checkpoint: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    `generation` counts the saves in one directory, `step` the updates; `written` is UTC by the
    clock of the writer; `score` is what `keep_best` compares, lower is better.
    """

    generation: int
    step: int
    written: str
    score: float | None
    files: Mapping[str, File]

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.generation:08d}-step-{self.step}"

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest left out."""
        return sum(file.size for file in self.files.values())

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        content: dict[str, object] = {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "step": self.step,
            "written": self.written,
            "score": self.score,
            "files": {
                name: {"size": file.size, "sha256": file.sha256}
                for name, file in self.files.items()
            },
        }
        return _text({**content, "sha256": content_hash(content)})


def decode(data: bytes, what: str) -> Manifest:
    """The manifest in these bytes.

    Raises:
        DamageError: it is not, to the byte, what `Manifest.encode` wrote.
        InputError: it is whole, but of another version of the format.
    """
    content = parse(data, what)
    told = content.pop("sha256", None)
    # The text, too: a hash of the content alone would let a changed space pass.
    if told != content_hash(content) or data != _text({**content, "sha256": told}):
        raise DamageError(f"{what} is not as it was written: its own hash does not fit")
    if content.get("format") != FORMAT:
        raise DamageError(f"{what} is no manifest of a {FORMAT}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{what} is of version {content.get('version')!r} of the format, this Rheostat reads "
            f"{VERSION}: use the Rheostat that wrote it"
        )
    found: Mapping[str, Any] = {key: content.get(key) for key in _FIELDS}
    sound = all(isinstance(found[key], kind) for key, kind in _FIELDS.items())
    if not sound or len(content) != 2 + len(_FIELDS):
        raise DamageError(f"{what} lacks what a manifest has")
    if not (0 < found["generation"] < MAX_GENERATION and 0 <= found["step"] < MAX_STEP):
        raise DamageError(f"{what}: generation or step out of range")
    files = {name: _file(name, value, what) for name, value in found["files"].items()}
    return Manifest(found["generation"], found["step"], found["written"], found["score"], files)


def check_stem(name: str, kind: str) -> None:
    """Refuse the name of a tensor file or document that could mean anything but one file."""
    if not _STEM.fullmatch(name) or f"{name}.json" == NAME:
        raise InputError(
            f"{kind} cannot be named {name!r}: lower case letters, digits and _, a letter first, "
            "and not 'manifest'"
        )


def tensor_file(name: str) -> str | None:
    """The name under which the caller saved the tensors in this file; None: it is a document."""
    found = _TENSORS.fullmatch(name)
    return found and found[1]


def _file(name: str, value: object, what: str) -> File:
    document = _DOCUMENT.fullmatch(name)
    if (not document and not _TENSORS.fullmatch(name)) or name == NAME:
        raise DamageError(f"{what} names a file that no checkpoint has: {name[:80]!r}")
    parts = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    size, sha256 = parts.get("size"), parts.get("sha256")
    if not isinstance(size, int) or not isinstance(sha256, str) or len(parts) != 2:
        raise DamageError(f"{what} does not say size and SHA-256 of {name}")
    if not 0 <= size < 1 << 48 or not _SHA256.fullmatch(sha256):
        raise DamageError(f"{what}: size or SHA-256 of {name} is none")
    return File(size, sha256)


def _text(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("ascii")
