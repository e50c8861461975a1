"""What the answer rests on, as parts of a page: fairness, provenance, state of the record."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from rheostat.lab.results import Results, Run
from rheostat.report import words
from rheostat.report.markup import Html, details, element, join, paragraph, pretty_json, table
from rheostat.report.plot import Look
from rheostat.report.sections import arm_name

SHORT = 12
"""Digits of a fingerprint that a page shows; two that differ share them by a chance of 2**-48."""


def fairness(results: Results) -> Html:
    """Which fingerprints were compared, and that they are equal or where they part."""
    head = ("seed", "runs", "initial weights", "data", "batches", "their digest")
    seeds = sorted(results.plan["seeds"])
    rows = [_seed(seed, [run for run in results.runs if run.seed == seed]) for seed in seeds]
    return element(
        "section",
        {"id": "fairness"},
        element("h2", {}, "Was like compared with like?"),
        paragraph(words.fairness(results)),
        details(
            "Fingerprints by seed",
            table("Fingerprints that the runs of one seed share", head, rows),
        ),
    )


def provenance(results: Results, look: Look) -> Html:
    """Plan, recipes, code, packages, machines and times."""
    identity = [
        ("study", element("code", {}, results.study)),
        ("plan (SHA-256)", element("code", {}, results.plan_hash)),
        ("registered", results.registered),
        ("revision of its prose", str(results.revision)),
        ("workload", element("code", {}, _one_line(results.plan["workload"]))),
        ("steps per run", str(results.plan["steps"])),
        ("seeds", ", ".join(str(seed) for seed in sorted(results.plan["seeds"]))),
    ]
    return element(
        "section",
        {"id": "provenance"},
        element("h2", {}, "Provenance"),
        table("The study", ("what", "value"), identity),
        table("Where the runs were made", ("what", "value"), _environment(results.runs)),
        table("Seconds per run", ("arm", "mean", "shortest", "longest"), _times(results, look)),
        *(_recipe(results, arm, look) for arm in results.arms),
        details("The plan", element("pre", {}, pretty_json(results.plan))),
        details("Every run", _every_run(results, look)),
    )


def problems(results: Results) -> Html:
    """What the verification of the record found."""
    if results.problems:
        lines = [element("li", {}, problem) for problem in results.problems]
        found = join([paragraph(words.problems(results)), element("ul", {}, *lines)])
    else:
        found = paragraph(words.problems(results))
    return element("section", {"id": "problems"}, element("h2", {}, "State of the record"), found)


def _seed(seed: int, runs: Sequence[Run]) -> list[str]:
    longest = max((run.record.batches for run in runs), key=len, default=())
    digest = hashlib.sha256("\n".join(longest).encode()).hexdigest()
    return [
        str(seed),
        str(len(runs)),
        _shared(run.record.header["weights"] for run in runs),
        _shared(run.record.header["data"] for run in runs),
        str(len(longest)),
        element("code", {}, digest[:SHORT]) if longest else "",
    ]


def _shared(fingerprints: Iterable[str]) -> Html:
    return join([element("code", {}, f"{name[:SHORT]} ") for name in sorted(set(fingerprints))])


def _environment(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Each fact with its values; where runs differ, each value with the number of its runs."""
    found: dict[str, Counter[str]] = {}
    if not any(run.record.header.get("facts", {}).get("git") for run in runs):
        found["git commit"] = Counter(
            {"not recorded: the runs were made outside a repository": len(runs)}
        )
    for run in runs:
        for key, value in _facts(run.record.header):
            found.setdefault(key, Counter())[value] += 1
    rows: list[tuple[str, str]] = []
    for key, values in sorted(found.items()):
        shared = len(values) == 1 and values.total() == len(runs)
        told = [text if shared else f"{text} ({count} runs)" for text, count in values.items()]
        rows.append((key, "; ".join(sorted(told))))
    return rows


def _facts(header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a header says of code, packages and machine, as far as it does."""
    facts: dict[str, Any] = dict(header.get("facts", {}))
    # They say which run it was, not where; see the list of runs.
    for key in ("pid", "started", "seed", "rng"):
        facts.pop(key, None)
    yield from _flat("", facts)
    yield from _flat("", header.get("environment", {}))


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[str, object]", value).items():
            yield from _flat(f"{prefix} {key}".strip(), item)
    elif isinstance(value, bool):
        yield prefix, "yes" if value else "no"
    else:
        yield prefix, str(value)


def _times(results: Results, look: Look) -> list[list[str]]:
    rows: list[list[str]] = []
    for arm in results.arms:
        known = [_seconds(run) for run in results.of_arm(arm)]
        seconds = [value for value in known if value is not None]
        ends = [sum(seconds) / len(seconds), min(seconds), max(seconds)] if seconds else []
        told = [words.number(value, 2) for value in ends] or ["not recorded"] * 3
        rows.append([arm_name(arm, look), *told])
    return rows


def _seconds(run: Run) -> float | None:
    value = run.record.facts.get("seconds")
    return None if value is None else float(value)


def _recipe(results: Results, arm: str, look: Look) -> Html:
    hashes = sorted({str(run.record.header.get("recipe_hash", "")) for run in results.of_arm(arm)})
    summary = join(["Recipe of ", arm_name(arm, look), " "])
    codes = [element("code", {}, f"{name[:SHORT]} ") for name in hashes if name]
    recipe = element("pre", {}, pretty_json(results.plan["arms"][arm]))
    return details(join([summary, *codes]), recipe)


def _every_run(results: Results, look: Look) -> Html:
    metrics = sorted({name for run in results.runs for name in run.record.metrics})
    head = ["run", "arm", "seed", "status", *metrics, "steps", "seconds", "started (UTC)"]
    head += ["restarts", "initial weights", "final weights", "content"]
    rows = [_run(run, metrics, look) for run in results.runs]
    return table("Every run of the study, with fingerprints", head, rows)


def _run(run: Run, metrics: Sequence[str], look: Look) -> list[str]:
    record = run.record
    seconds = _seconds(run)
    hashes = (record.header["weights"], record.fingerprint, record.content_hash)
    return [
        run.id,
        arm_name(run.arm, look),
        str(run.seed),
        record.status,
        *(f"{record.metrics[name]:.6g}" if name in record.metrics else "" for name in metrics),
        str(record.steps.size),
        "" if seconds is None else words.number(seconds, 2),
        _time(record.header.get("facts", {}).get("started")),
        ", ".join(str(step) for step in record.header.get("restarts", [])),
        *(element("code", {}, str(name)[:SHORT]) for name in hashes),
    ]


def _time(started: object) -> str:
    """Seconds since 1970 as a date; whatever else was recorded, as it is."""
    if not isinstance(started, int | float):
        return "" if started is None else str(started)
    moment = datetime.datetime.fromtimestamp(started, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _one_line(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value[key]}" for key in sorted(value))
