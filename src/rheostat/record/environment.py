"""Where a run happened: code, packages, machine. Read without importing any of the packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path

PACKAGES = ("rheostat", "torch", "numpy", "scipy", "scikit-learn")
"""Packages whose version can change a run's numbers."""

VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY"),
    *("MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables of the process that can change a run's numbers."""


@cache
def environment() -> dict[str, str]:
    """What can change a run's bits: Python, the packages, our sources, the kind of machine."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "code": code_fingerprint()}


@cache
def code_fingerprint() -> str:
    """Sixteen hexadecimal digits of the SHA-256 of this package's sources: a version says what was
    released, not what ran."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def facts() -> dict[str, object]:
    """What may differ between two runs of equal bits: host, process, processor."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


@cache
def git_state(directory: Path) -> dict[str, object]:
    """The commit checked out in a directory and whether the files there differ from it.

    Empty where there is no git or no repository.
    """

    def ask(*words: str) -> str:
        command = ["git", "-C", str(directory), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        dirty = bool(ask("status", "--porcelain", "--untracked-files=normal"))
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": dirty}


@cache
def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()
