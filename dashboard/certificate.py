"""The gate's report as a certificate: the verdict, what decided it, and every rule with its value and limit."""

from collections.abc import Sequence
from html import escape

from nicegui import ui

from dashboard import frame, words
from understudy.records import GateReport, Interval, Look, Rule

_MARKS = {True: ("✓", "us-good", "kept"), False: ("✗", "us-bad", "broken"), None: ("–", "us-soft", "not judged")}


def draw(report: GateReport, also: str = "") -> None:
    """The certificate; ``also`` is what a person decided afterwards."""
    with frame.element("section", "us-certificate", aria_label="Report of the gate"):
        with frame.element("div", "us-certificate-head"):
            ui.html(_seal(report), sanitize=False)
            with frame.element("div"):
                frame.text(f"Report of the gate · generation {report.generation}", "us-over")
                frame.text(title(report), tag="h2")
                frame.text(summary(report), "us-soft", "p")
        if also:
            frame.text(also, "us-against", "p")
        _rules(report.rules, report.rule)
        with frame.element("div", "us-grid"):
            if report.look is not None:
                _look(report.look, report.alpha)
            _needed(report)


def title(report: GateReport) -> str:
    """The verdict in a sentence."""
    challenger = report.challenger.version
    if report.champion is None:
        found = "is better than guessing" if report.is_proved else "is not proved better than guessing"
        return f"{challenger} {found}"
    found = "is proved better than" if report.is_proved else "is not promoted over"
    return f"{challenger} {found} {report.champion.version}"


def summary(report: GateReport) -> str:
    """How many rules were kept, and which one decided; the reasons, where rules were not kept yet."""
    if not report.rules:
        return "; ".join(report.reasons)
    counts = ((True, "kept"), (False, "broken"), (None, "not judged"))
    said = [f"{num} {kind}" for passed, kind in counts if (num := sum(one.passed is passed for one in report.rules))]
    rules = words.plural(len(report.rules), "rule")
    return (
        f"{rules}: {', '.join(said)}. {report.rule} decided, on {report.challenger.num_images:,} images of the holdout."
    )


def _seal(report: GateReport) -> str:
    word = "PROMOTED" if report.is_proved else "REFUSED"
    teeth = "".join(f'<use href="#us-tooth" transform="rotate({angle} 60 60)"/>' for angle in range(0, 360, 15))
    return (
        f'<svg class="us-seal {word.lower()}" viewBox="0 0 120 120" role="img" aria-label="{escape(word.lower())}">'
        f'<defs><path id="us-tooth" d="M54 6 L60 1 L66 6 Z"/></defs>{teeth}<circle cx="60" cy="60" r="55"/>'
        f'<circle class="ring" cx="60" cy="60" r="48"/><text x="60" y="65" text-anchor="middle">{word}</text></svg>'
    )


def _rules(rules: Sequence[Rule], deciding: str) -> None:
    with frame.table("", "rule", "value#", "limit#", "why"):
        for rule in rules:
            mark, kind, said = _MARKS[rule.passed]
            with frame.row():
                with frame.cell():
                    frame.text(mark, f"us-mark {kind}").props["aria-label"] = said
                with frame.cell("us-nowrap"):
                    frame.text(rule.name, "us-strong" if rule.name == deciding else "")
                    if rule.name == deciding:
                        frame.text("it decided", "us-soft us-small us-block")
                with frame.cell("us-right us-mono us-nowrap"):
                    frame.text(number(rule.value))
                with frame.cell("us-right us-mono us-nowrap us-soft"):
                    frame.text("–" if rule.limit is None else f"≤ {number(rule.limit)}")
                with frame.cell("us-soft us-sentence"):
                    frame.text(rule.sentence)


def number(value: float | None) -> str:
    """A figure of a rule, to three digits."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def _look(look: Look, alpha: float) -> None:
    with frame.element("div", "us-note"):
        frame.text(f"Look {look.number} at this holdout", tag="h3")
        own = max(0.0, look.alpha - look.carried)
        carried = f", and {number(look.carried)} carried over from the promotion before" if look.carried else ""
        frame.text(
            f"A holdout has an error rate of 5 % to spend over all looks. This one was held to {number(alpha)}: "
            f"{number(own)} of its own{carried}.",
            "us-soft",
            "p",
        )
        images = sum(look.holdout.values())
        frame.text(
            f"It has {images:,} images; one that grows to {look.fresh_at:,} is a new one, whose looks begin anew.",
            "us-soft",
            "p",
        )


def _needed(report: GateReport) -> None:
    with frame.element("div", "us-note"):
        frame.text("What would prove more", tag="h3")
        for sentence in needed(report):
            frame.text(sentence, "us-soft", "p")


def needed(report: GateReport) -> list[str]:
    """What the next proof takes, in sentences."""
    said = []
    if report.images_needed is not None:
        said.append(
            f"Had all gone on as in this holdout, {report.images_needed:,} images would prove such a gain; "
            f"there are {report.challenger.num_images:,}."
        )
    if report.power is not None:
        said.append(
            f"A true gain of 2 points would have been proved in {words.percent(report.power, 0)} of cases: "
            f"more holdout images see smaller gains."
        )
    if report.control_gain is not None:
        gain = report.control_gain
        said.append(
            f"The same student on labels alone: pseudo-labels were worth {words.points(gain.difference)} "
            f"(p = {number(gain.p_value)})."
        )
    return said or ["A first teacher is held to guessing only; the next generation is held to it."]


# -- the proof as pictures --------------------------------------------------------------------------


def interval(difference: float, between: Interval | None) -> str:
    """The difference with its interval on a line with zero on it, as SVG 460 px wide."""
    low, high = (between.low, between.high) if between else (difference, difference)
    span = max(abs(low), abs(high), abs(difference), 1e-3) * 1.25

    def x(share: float) -> float:
        return round(230 + 200 * share / span, 1)

    kind = "won" if low > 0 else "lost" if high < 0 else "open"
    marks = "".join(
        f'<text x="{x(share)}" y="66" text-anchor="middle">{100 * share:+.1f}</text>'
        for share in ((low, high) if between else (difference,))
        if abs(share) > span * 0.08
    )
    said = f"Difference {words.points(difference)}" + (
        f", 95 % interval {words.points(low)} to {words.points(high)}" if between else ""
    )
    return (
        f'<svg class="us-interval {kind}" viewBox="0 0 460 96" role="img" aria-label="{escape(said)}">'
        f'<line class="axis" x1="20" x2="440" y1="40" y2="40"/><line class="zero" x1="230" x2="230" y1="14" y2="52"/>'
        f'<line class="bar" x1="{x(low)}" x2="{x(high)}" y1="40" y2="40"/>'
        f'<circle cx="{x(difference)}" cy="40" r="8"/>'
        f'<text class="big" x="{x(difference)}" y="22" text-anchor="middle">{escape(words.points(difference))}</text>'
        f'{marks}<text x="230" y="66" text-anchor="middle">0</text>'
        f'<text x="20" y="90">champion is better</text><text x="440" y="90" text-anchor="end">challenger is better</text></svg>'
    )
