"""Writing one run, step by step. `rheostat.record.run` says what is in its directory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rheostat.core.durable import JsonObject, make_directory
from rheostat.core.errors import InputError, MachineError
from rheostat.record.log import EventLog, scan_lines
from rheostat.record.run import FACTS, FORMAT, LOG_NAME, OURS, RESUME
from rheostat.record.series import RESERVED, TEXTS

STATUSES = ("done", "diverged")
BLOCK = 256  # steps a line: large enough to amortise one write, small enough to lose little


class _Block:
    """Consecutive steps with the same names, not yet in the log. `seq` is the number of the
    event that they will become: nothing else is appended while a block is open."""

    def __init__(self, first: int, names: tuple[str, ...], seq: int) -> None:
        self.first = first
        self.names = names
        self.seq = seq
        self.rows: list[tuple[Any, ...]] = []  # fingerprints as `TEXTS`, then values as `names`

    def fields(self) -> JsonObject:
        columns = dict(zip((*TEXTS, *self.names), zip(*self.rows, strict=True), strict=True))
        texts = {name: columns.pop(name) for name in TEXTS}
        return {"first": self.first, "count": len(self.rows), "series": columns, **texts}


class RunWriter:
    """Writes one run. As a context manager it writes out what is buffered when the block ends,
    also by an error; only `finish` makes the run finished.

    `header` and `about` are anything that has a JSON form: what the recorder knows, and what a
    user adds to it. Raises `InputError` where the directory holds a run already, where `about`
    has a key of the header's own, and for whatever is recorded after the end; `MachineError`
    where the disk refuses; what was recorded before stays readable.
    """

    def __init__(
        self,
        directory: str | Path,
        header: Mapping[str, object],
        about: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = Path(directory)
        for key in about or {}:
            if key in header or key == FACTS:
                raise InputError(
                    f"about: the key {key!r} is the record's own; give yours another name"
                )
        make_directory(self.directory)
        path = self.directory / LOG_NAME
        self._begin(EventLog.create(path))
        try:
            self._log.append("start", {"format": FORMAT, "header": {**header, **(about or {})}})
        except BaseException:
            with contextlib.suppress(OSError):
                self._log.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    @classmethod
    def resume(
        cls,
        directory: str | Path,
        step: int,
        fields: Mapping[str, object],
        same: Mapping[str, object],
    ) -> RunWriter:
        """Go on with the run in `directory`: the next step that is recorded is `step`.

        Nothing is removed. What the log holds of that step and later ones is superseded by the
        `resume` event, which bears `fields`, and is not read any more.

        Raises:
            InputError: there is no run, it is finished, its log is damaged, or its header says
                something else than `same`.
            MachineError: the disk refuses.
        """
        writer = cls.__new__(cls)
        writer.directory = Path(directory)
        writer._begin(EventLog.reopen(writer.directory / LOG_NAME))
        try:
            lines = scan_lines(writer._log.path)
            if not lines or lines[0].kind != "start" or lines[-1].kind == "finish":
                raise InputError(
                    f"the run in {directory} is {'finished' if lines else 'empty'}: it cannot go "
                    "on; begin another run in a directory of its own"
                )
            header = lines[0].event().fields["header"]
            if differ := [key for key in same if header.get(key) != same[key]]:
                raise InputError(
                    f"the run in {directory} was recorded with another {', '.join(differ)}: "
                    "begin another run in a directory of its own"
                )
            writer._log.append(RESUME, {**fields, "step": step})
        except BaseException:
            with contextlib.suppress(OSError):
                writer._log.close()
            raise
        return writer

    def _begin(self, log: EventLog) -> None:
        self._log = log
        self._block: _Block | None = None
        self._ended = ""  # how, once nothing more can be recorded

    def step(
        self,
        step: int,
        values: Mapping[str, float],
        batch: str | None = None,
        weights: str = "",
        rng: str = "",
    ) -> None:
        """Record one step: its values by name, bit for bit, and fingerprints of its batch, of the
        weights after it and of the state of the random generators.

        Buffered: the log gets `BLOCK` steps at a time. A name that is absent at some steps
        reads as NaN there. `RESERVED` are taken as names by the columns of that name.
        """
        self._refuse_after_end()
        row = (batch or "", weights, rng, *map(float, values.values()))
        block = self._block
        names = tuple(values)
        if block is None or step != block.first + len(block.rows) or names != block.names:
            block = self._new_block(step, names)
        block.rows.append(row)
        if len(block.rows) >= BLOCK:
            self._write_block()

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Record an event at once, after the steps that came before it."""
        if kind in OURS:
            raise ValueError(f"events of the kind {kind!r} are written by the run itself")
        self._refuse_after_end()
        self._write_block()
        self._log.append(kind, fields)

    def flush(self) -> None:
        """Write the buffered steps, and make all that was recorded survive a power cut."""
        self._refuse_after_end()
        self._write_block()
        self._log.flush()

    def finish(
        self,
        status: str,
        metrics: Mapping[str, float],
        fingerprint: str,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """End the run and close it. `status` is one of `STATUSES`, `fingerprint` that of the
        final weights, `facts` whatever may differ between two bit-identical runs."""
        if status not in STATUSES:
            raise ValueError(f"a run ends as one of {STATUSES}, not {status!r}")
        self._refuse_after_end()
        self._write_block()
        plain = {name: float(value) for name, value in metrics.items()}
        ending = {"status": status, "metrics": plain, "fingerprint": fingerprint}
        self._log.append("finish", {**ending, FACTS: dict(facts or {})})
        self._ended = "finished"
        self._log.close()

    def close(self) -> None:
        """Write the buffered steps and close; without `finish` the run counts as running."""
        if not self._ended:
            self._ended = "closed"
            try:
                self._write_block()
            finally:
                self._log.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except MachineError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is the one to report

    def _new_block(self, first: int, names: tuple[str, ...]) -> _Block:
        for name in RESERVED:
            if name in names:
                raise InputError(f"a series cannot be named {name!r}: that column is the record's")
        self._write_block()
        self._block = _Block(int(first), names, self._log.next_seq)
        return self._block

    def _write_block(self) -> None:
        block = self._block
        if block is None:
            return
        # An interrupt can come after the append and before the last line: the log's number
        # then says that the block is written, and it is not written twice.
        if block.rows and self._log.next_seq == block.seq:
            self._log.append("steps", block.fields())
        self._block = None

    def _refuse_after_end(self) -> None:
        if self._ended:
            raise InputError(
                f"the run in {self.directory} is {self._ended}: nothing can be added to it; "
                "begin another run in a directory of its own"
            )
