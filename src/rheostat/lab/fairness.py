"""Like with like: whether the arms of a study started equal and saw the same batches.

Every run leaves a `Witness`, the fingerprints of its initial weights, its data and each of
its batches. `parting` compares the witnesses of one seed across the arms and names the first
place where they differ; a study with a parting is void, since a paired difference would then
measure the parting as much as the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Witness:
    """What one run saw: fingerprints as hex strings, `batches[k]` that of step k (from 0).

    `diverged` says that the run stopped early because its loss was no longer finite; only
    such a run may be shorter than the others of its seed.
    """

    arm: str
    seed: int
    weights: str
    batches: tuple[str, ...]
    data: str
    diverged: bool = False


@dataclass(frozen=True)
class Parting:
    """The first place where two arms of one seed part.

    `step` is None where they part before the first step. `fingerprints` are those of
    `arms`, in that order; that of a run which had already ended is the empty string.
    """

    kind: Literal["initial weights", "data", "batch", "length"]
    seed: int
    arms: tuple[str, str]
    step: int | None
    fingerprints: tuple[str, str]

    @property
    def sentence(self) -> str:
        """Why the comparison is void, as one finished sentence."""
        one, two = self.arms
        where = f"comparison void: seed {self.seed}: "
        if self.kind == "length":
            ended, going = (one, two) if not self.fingerprints[0] else (two, one)
            return (
                f"{where}arm {ended} ends before step {self.step} without having diverged, "
                f"while arm {going} goes on"
            )
        evidence = " against ".join(_shortened(*self.fingerprints))
        if self.kind == "batch":
            what = f"see different batches from step {self.step}"
        elif self.kind == "data":
            what = "are given different data"
        else:
            what = "start from different initial weights"
        return f"{where}arms {one} and {two} {what} ({evidence})"


def parting(witnesses: Iterable[Witness]) -> Parting | None:
    """The first parting among the runs of each seed, or None where all are alike.

    `witnesses` come in plan order of their arms (their seeds in any order). Seeds are taken
    from the lowest; in a seed initial weights, then data, then batches step by step; at one
    step the first arm in plan order stands against the first arm that differs from it.
    """
    by_seed: dict[int, list[Witness]] = {}
    for witness in witnesses:
        by_seed.setdefault(witness.seed, []).append(witness)
    for _, runs in sorted(by_seed.items()):
        found = (
            _start(runs, "initial weights", lambda run: run.weights)
            or _start(runs, "data", lambda run: run.data)
            or _course(runs)
        )
        if found is not None:
            return found
    return None


def _start(
    runs: Sequence[Witness],
    kind: Literal["initial weights", "data"],
    fingerprint: Callable[[Witness], str],
) -> Parting | None:
    first = runs[0]
    for other in runs[1:]:
        if fingerprint(other) != fingerprint(first):
            prints = (fingerprint(first), fingerprint(other))
            return Parting(kind, first.seed, (first.arm, other.arm), None, prints)
    return None


def _course(runs: Sequence[Witness]) -> Parting | None:
    if all(a.batches == b.batches for a, b in pairwise(runs)):
        return None
    for step in range(max(len(run.batches) for run in runs)):
        # A run that diverged earlier has nothing more to say; one that ended otherwise has.
        present = [run for run in runs if step < len(run.batches) or not run.diverged]
        first = present[0]
        for other in present[1:]:
            prints = (_batch(first, step), _batch(other, step))
            if prints[0] != prints[1]:
                kind = "batch" if all(prints) else "length"
                return Parting(kind, first.seed, (first.arm, other.arm), step, prints)
    return None


def _batch(run: Witness, step: int) -> str:
    return run.batches[step] if step < len(run.batches) else ""


def _shortened(one: str, two: str) -> tuple[str, str]:
    """Both fingerprints, cut to four digits or as many as tell them apart."""
    shown = 4
    while one[:shown] == two[:shown] and shown < max(len(one), len(two)):
        shown += 1
    return _cut(one, shown), _cut(two, shown)


def _cut(fingerprint: str, shown: int) -> str:
    return fingerprint if len(fingerprint) <= shown else fingerprint[:shown] + "…"
