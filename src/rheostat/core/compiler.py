"""C++ that is compiled on the user's machine, once, to a shared library.

A text is compiled with the machine's own compiler, for its own processor. The library is kept in
the user's cache, under a name made of the text, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # What lets square roots and choices be vectorized, and keeps every rounding torch's.
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
)


def at_hand(lost: str) -> bool:
    """Whether there is a C++ compiler; where not, it is said once what is `lost` without one."""
    if _compiler() is None:
        warn_once("no C++ compiler found: install g++", lost)
        return False
    return True


def _compiler() -> str | None:
    """`CXX`, g++ or clang++; None where there is none."""
    named = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return next(filter(None, map(shutil.which, named)), None)


@functools.cache
def library(text: str, lost: str) -> ctypes.CDLL | None:
    """The library of a source, compiled if the cache has it not; None where that fails, and it is
    said once what is `lost`."""
    try:
        return _loaded(text)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        warn_once(str(said).strip().partition("\n")[0], lost)
        return None


def _loaded(text: str) -> ctypes.CDLL:
    """The library; one that cannot be read is made anew, once."""
    path = _built(text)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_built(text)))


def _built(text: str) -> Path:
    """The shared library of a source, in the user's cache."""
    command = _command()
    key = hashlib.sha256("\n".join([text, *command, _machine()]).encode()).hexdigest()[:32]
    path = _cache() / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            code, made = Path(folder, "code.cpp"), Path(folder, "code.so")
            code.write_text(text)
            subprocess.run(
                [*command, str(code), "-o", str(made), *_libraries()],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
            made.replace(path)  # whole or not there, whoever else compiles it now
    return path


@functools.cache
def _command() -> list[str]:
    found = _compiler()
    if found is None:
        raise FileNotFoundError("no C++ compiler")
    wide = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []
    return [found, *_FLAGS, *wide]


def _libraries() -> list[str]:
    """glibc's vectors of exp and log are a library of their own."""
    glibc = platform.libc_ver()[0] == "glibc"
    return ["-lmvec", "-lm"] if glibc and platform.machine() == "x86_64" else ["-lm"]


@functools.cache
def _machine() -> str:
    """What a compiled library depends on besides its source: the compiler and the processor."""
    version = subprocess.run(
        [_command()[0], "--version"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{version}\n{flags}"


def _cache() -> Path:
    """The folder of libraries, the user's own: what lies there is run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "rheostat", "kernels")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and (found := folder.stat()).st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user ({found.st_uid})")
    return folder


@functools.cache
def warn_once(reason: str, lost: str) -> None:
    """Say once why a rule is not compiled, and what is `lost`."""
    warnings.warn(f"no compiled kernels ({reason}); {lost}", stacklevel=2)
