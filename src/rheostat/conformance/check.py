"""Running the clauses, and what they found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rheostat.conformance import card, inputs, scope, state, steps
from rheostat.conformance.subject import Broken, NotApplicable, Subject

CLAUSES: tuple[Callable[[Subject], None], ...] = (
    *steps.CLAUSES,
    *state.CLAUSES,
    *inputs.CLAUSES,
    *scope.CLAUSES,
    *card.CLAUSES,
)


@dataclass(frozen=True)
class Finding:
    """What one clause found. `sentence` is the clause in words, `found` what is behind a failure
    or why the clause says nothing here."""

    clause: str
    sentence: str
    outcome: Literal["holds", "broken", "not applicable"]
    found: str = ""


def examine(subject: Subject, clause: Callable[[Subject], None]) -> Finding:
    """Run one clause. An exception of the optimizer's own breaks it too."""
    name = clause.__name__.replace("_", " ")
    sentence = (clause.__doc__ or "").strip().split("\n")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clause(subject)
    except NotApplicable as reason:
        return Finding(name, sentence, "not applicable", str(reason))
    except Broken as broken:
        return Finding(name, sentence, "broken", str(broken))
    except Exception as error:  # noqa: BLE001  (whatever a component raises breaks its contract)
        return Finding(name, sentence, "broken", f"{type(error).__name__}: {error}")
    return Finding(name, sentence, "holds")


def check(ref: str) -> list[Finding]:
    """Examine a registered optimizer, clause by clause. Raises InputError for an unknown one."""
    subject = Subject.named(ref)
    return [examine(subject, clause) for clause in CLAUSES]
