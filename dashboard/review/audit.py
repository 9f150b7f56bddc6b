"""What a blind audit has found so far: the precision of the pseudo-labels, and what a narrower interval would take."""

import math

from dashboard import frame, words
from understudy.review_records import Audit, AuditedClass

#: Half widths of an interval that people ask for.
WIDTHS = (0.1, 0.05, 0.025, 0.01, 0.005)
#: Of a normal distribution, for 95 %.
Z = 1.96
#: More than anybody looks at.
MOST = 10_000_000


def draw(audit: Audit) -> None:
    """The figures, of all and by class."""
    with frame.panel("Precision of the pseudo-labels", _of(audit), "us-audit"):
        if audit.interval is None:
            frame.nothing("Nobody has answered yet. The first answers already give a wide interval.")
            return
        with frame.element("div", "us-figures", aria_live="polite"):
            frame.figure(words.percent(audit.precision), "of the labels are right")
            frame.figure(_span(audit), f"{audit.interval.confidence:.0%} interval")
            frame.figure(f"{audit.num_right:,} of {audit.num_audited:,}", "answers agreed")
        frame.text(_further(audit), "us-soft", "p")
        with frame.element("details", "us-details"):
            with frame.element("summary"):
                frame.text("By class")
            with frame.table("label", "right#", "precision#", "95 % interval#"):
                for name, one in audit.per_class.items():
                    _row(name, one)


def _of(audit: Audit) -> str:
    rejected = (
        f"; {words.plural(audit.num_rejected, 'image is', 'images are')} of no class" if audit.num_rejected else ""
    )
    return f"By {audit.teacher}, of labels that are at least {words.percent(audit.threshold, 0)} sure{rejected}."


def _span(one: AuditedClass | Audit) -> str:
    return "–" if one.interval is None else f"{100 * one.interval.low:.1f} – {100 * one.interval.high:.1f} %"


def _row(name: str, one: AuditedClass) -> None:
    with frame.row():
        with frame.cell():
            frame.text(name)
        right = f"{one.num_right:,} of {one.num_audited:,}" if one.num_audited else "–"
        for said in (right, words.percent(one.precision), _span(one)):
            with frame.cell("us-right"):
                frame.text(said)


def _further(audit: Audit) -> str:
    assert audit.interval is not None
    now = (audit.interval.high - audit.interval.low) / 2
    steps = [(width, num_more(audit.num_right, audit.num_audited, width)) for width in WIDTHS if width < now]
    said = " or ".join(f"{num:,} more for ±{100 * width:g} points" for width, num in steps[:2] if num)
    return f"About {said}, if they turn out alike." if said else "The interval is as narrow as anybody needs."


def num_more(num_right: int, num: int, width: float) -> int:
    """About how many answers more have an interval of this half width, by Wilson's formula, if they turn out alike."""
    share = num_right / num if num else 0.5

    def is_wide(total: int) -> bool:
        spread = math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
        return Z / (1 + Z**2 / total) * spread > width

    low, high = max(num, 1), MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if is_wide(middle) else (low, middle)
    return max(0, low - num)
