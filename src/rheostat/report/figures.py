"""Which figures a report has, in the order of the page."""

from __future__ import annotations

from rheostat.lab.results import Results
from rheostat.report.over_runs import happened, mark_band, mark_rates
from rheostat.report.over_seeds import differences, final_metric
from rheostat.report.over_steps import curve, learning_rates
from rheostat.report.plot import Figure, styles


def draw(results: Results) -> list[Figure]:
    """Every figure that the record has data for.

    Where runs failed, the figures over seeds come twice: with the failures at their score,
    and without them, since one score of the worst value flattens all differences.
    """
    look = styles(results.arms, results.plan["baseline"])
    told = happened(results)
    found: list[Figure | None] = [
        mark_rates(learning_rates(results, look), results, told),
        mark_band(curve(results, look, "loss", "Training loss"), results, told),
        curve(results, look, "grad_norm", "Gradient norm", small=True),
        curve(results, look, "momentum_norm", "Momentum norm", small=True),
    ]
    verdict = results.verdict
    if verdict is not None:
        failed = any(arm.failures for arm in verdict.arms)
        kinds = (True, False) if failed else (True,)
        found += [final_metric(verdict, look, failures=kind) for kind in kinds]
        if verdict.comparisons:
            found += [differences(verdict, look, failures=kind) for kind in kinds]
    return [figure for figure in found if figure is not None]
