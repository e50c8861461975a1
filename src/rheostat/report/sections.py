"""The answer of a study as parts of a page: verdict, tables of arms and comparisons, figures."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.lab.results import Results
from rheostat.lab.verdict import RULE, ArmSummary, Comparison, Verdict
from rheostat.report import conditions, words
from rheostat.report.markup import Html, details, element, join, paragraph, table
from rheostat.report.plot import Figure, Look


def warnings(results: Results) -> Html:
    """What a reader must know before the answer: void, incomplete, or not as recorded."""
    found: list[Html] = []
    if results.parting is not None:
        where = words.parted(results.parting)
        found.append(_warning("Comparison void", f"{where[:1].upper()}{where[1:]}."))
    if results.missing:
        found.append(_warning("Incomplete", f"{words.missing(results)}; there is no verdict yet."))
    if results.problems:
        told = words.problems(results)
        link = element("a", {"href": "#problems"}, "They are listed below.")
        found.append(_warning("The record does not verify", f"{told} ", link))
    return join(found)


def answer(results: Results, look: Look) -> Html:
    """The question, the answer in one sentence, and a card per comparison."""
    cards = [_card(row, look) for row in results.verdict.comparisons] if results.verdict else []
    return element(
        "section",
        {"class": "answer"},
        element("h2", {}, "Question"),
        element("p", {"class": "question"}, results.plan["question"]),
        element("h2", {}, "Answer"),
        element("p", {"class": "lead"}, words.answer(results)),
        element("div", {"class": "cards"}, *cards) if cards else "",
    )


def intention(results: Results) -> Html:
    """What was expected, as the plan had it before the first run, and why it is asked."""
    return element(
        "section",
        {},
        element("h2", {}, "Hypothesis, stated before the first run"),
        paragraph(results.plan["hypothesis"]),
        element("h2", {}, "Why it is asked"),
        paragraph(results.plan["why"]),
    )


def arms(results: Results, look: Look) -> Html:
    """The arms over their seeds; only how far they are while runs are missing."""
    verdict = results.verdict
    if verdict is None:
        head = ("arm", "runs recorded", "runs planned")
        planned = str(len(results.plan["seeds"]))
        rows = [
            (arm_name(arm, look), str(len(results.of_arm(arm))), planned) for arm in results.arms
        ]
        return _part("Arms", table("Runs of each arm", head, rows))
    places = words.places(verdict)
    level = words.level(verdict)
    head = ["arm", "mean", "sd", f"{level} interval", "method", "seeds", "failures"]
    rows = [_arm(arm, places, look) for arm in verdict.arms]
    caption = f"{words.metric(verdict)} over {len(verdict.seeds)} seeds"
    return _part("Arms", table(caption, head, rows), _every_score(verdict, look))


def comparisons(results: Results, look: Look) -> Html:
    """The comparisons with the baseline in numbers, losses beside wins."""
    verdict = results.verdict
    if verdict is None or not verdict.comparisons:
        return Html("")
    places = words.places(verdict)
    head = ["arm", "verdict", "difference", f"{words.level(verdict)} interval"]
    head += ["wins", "losses", "ties", "p", "Holm p", "TOST p", "TOST Holm p"]
    rows = [_comparison(row, places, look) for row in verdict.comparisons]
    caption = f"Differences from {verdict.baseline}, seed by seed: {words.metric(verdict)}; "
    caption += f"margin {words.margin(verdict)}"
    methods = sorted({row.p_method for row in verdict.comparisons})
    told = (
        f"p: two-sided {' or '.join(methods)} test. TOST p: two one-sided tests for a difference "
        f"within the margin. Holm: corrected for all {len(rows)} comparisons. Wins are seeds on "
        "which the arm did better than the baseline. Intervals are not corrected."
    )
    return _part(
        "Comparisons",
        table(caption, head, rows),
        element("p", {"class": "note"}, told),
        details("What pairing by seed bought", _pairing(verdict, look)),
    )


def under_conditions(results: Results) -> Html:
    """What the study's other conditions came to, where it has any."""
    found = [
        _part(one.title, table(one.title, one.head, one.rows), *filter(None, [_note(one.note)]))
        for one in conditions.tables(results)
    ]
    return join(found)


def _note(text: str) -> Html:
    return element("p", {"class": "note"}, text) if text else Html("")


def _pairing(verdict: Verdict, look: Look) -> Html:
    rows = [
        [
            arm_name(row.arm, look),
            "undefined" if row.correlation is None else words.number(row.correlation, 2),
            "undefined" if row.effective_seeds is None else words.number(row.effective_seeds, 1),
        ]
        for row in verdict.comparisons
    ]
    caption = f"Correlation with {verdict.baseline} over the seeds, and the seeds per arm that a "
    caption += (
        f"comparison without pairing would need for the precision of these {len(verdict.seeds)}"
    )
    return table(caption, ("arm", "correlation", "seeds without pairing"), rows)


def figures(drawn: Sequence[Figure]) -> Html:
    """Places for the figures, which the page's script fills."""
    if not drawn:
        return Html("")
    holders = [
        element(
            "figure",
            {"class": "small"} if figure.small else {},
            element("h3", {}, figure.title),
            element(
                "div",
                {
                    "id": figure.name,
                    "class": "plot",
                    "role": "img",
                    "aria-label": figure.alternative,
                },
            ),
            element("figcaption", {}, figure.caption),
        )
        for figure in drawn
    ]
    told = "Point at a figure for its numbers. With a mouse, drag to zoom and double-click for the "
    told += "whole; a click on a name in a legend hides it."
    return _part(
        "Figures",
        element("noscript", {}, paragraph("The figures need JavaScript.")),
        element("p", {"class": "note"}, told),
        element("div", {"class": "figures"}, *holders),
    )


def rule(results: Results) -> Html:
    """The rule behind the verdict, with the numbers of this study."""
    metric = results.plan["metric"]
    unit = f" {metric['unit']}" if metric["unit"] else ""
    numbers = (
        f"In this study alpha is {results.plan['alpha']:g}, the margin {metric['margin']:g}{unit} "
        f"and the worst value of the plan {float(metric['worst']):g}{unit}; "
        f"{metric['name']} is to {metric['goal']}."
    )
    return _part("The rule", paragraph(RULE), paragraph(numbers))


def arm_name(arm: str, look: Look) -> Html:
    """The arm's name beside its colour."""
    colour = f"background:{look[arm].colour}"
    return join([element("span", {"class": "swatch", "style": colour}), arm])


def _part(title: str, *children: str) -> Html:
    return element("section", {}, element("h2", {}, title), *children)


def _warning(title: str, *text: str) -> Html:
    return element("div", {"class": "warning", "role": "alert"}, element("h2", {}, title), *text)


def _card(row: Comparison, look: Look) -> Html:
    counts = f"{row.wins} {_seeds(row.wins)} won, {row.losses} lost"
    counts += f", {row.ties} tied" if row.ties else ""
    return element(
        "article",
        {"class": "card", "style": f"border-color:{look[row.arm].colour}"},
        element("h3", {}, row.arm),
        element("p", {"class": "outcome"}, row.outcome),
        paragraph(row.sentence),
        element("p", {"class": "note"}, counts),
    )


def _seeds(count: int) -> str:
    return "seed" if count == 1 else "seeds"


def _arm(arm: ArmSummary, places: int, look: Look) -> list[str]:
    return [
        arm_name(arm.name, look),
        words.number(arm.mean, places),
        words.number(arm.sd, places),
        words.interval(arm.interval, places),
        arm.interval.method if arm.interval else "",
        str(len(arm.scores)),
        str(arm.failures),
    ]


def _comparison(row: Comparison, places: int, look: Look) -> list[str]:
    return [
        arm_name(row.arm, look),
        element("strong", {}, row.outcome),
        words.number(row.mean, places, sign=True),
        words.interval(row.interval, places, sign=True),
        str(row.wins),
        str(row.losses),
        str(row.ties),
        words.p_value(row.p),
        words.p_value(row.p_holm),
        words.p_value(row.tost_p),
        words.p_value(row.tost_holm),
    ]


def _every_score(verdict: Verdict, look: Look) -> Html:
    """Seeds down, arms across: the numbers behind the figures."""
    head = ["seed", *(arm_name(arm.name, look) for arm in verdict.arms)]
    rows = [
        [str(seed), *(_score(arm, index) for arm in verdict.arms)]
        for index, seed in enumerate(verdict.seeds)
    ]
    return details(
        "Every score", table(f"{words.metric(verdict)}, as it counts, of every run", head, rows)
    )


def _score(arm: ArmSummary, index: int) -> str:
    score = arm.scores[index]
    return f"{score.value:.6g}".replace("-", "−") + (" (failed)" if score.failed else "")
