"""Looks at a holdout: which error rate a comparison may use, since the same images judge every generation.

A holdout has ``ALPHA`` to spend, over all its looks. The k-th look gets ``ALPHA`` × 6 / (π² k²), whose sum
over all k is ``ALPHA``; a look that promoted passes on what it was held to, because a true promotion has
not erred (the online fallback procedure: Tian and Ramdas 2021, "Online control of the familywise error rate",
Statistical Methods in Medical Research 30(4)). So the chance that any worse or equal challenger is ever promoted on
one holdout is at most ``ALPHA``, whatever the dependence between the looks.

The same holdout is one of whose images more than half were in its first look. Pure: reports in, a look out.
"""

import math
from collections.abc import Mapping, Sequence

from understudy.records import GateReport, Look, PastLook

#: A worse or equal challenger is ever promoted on one holdout with at most this chance.
ALPHA = 0.05


def share(number: int) -> float:
    """What the ``number``-th look may spend by itself, from 1.

    6 / (π² k²) of ``ALPHA`` rather than 1 / (k (k + 1)): the first look, at which a gain of 2 points on 2,000
    images must be seen, gets 61 % instead of 50 %.
    """
    return ALPHA * 6.0 / (math.pi * number) ** 2


def next_look(past: Sequence[GateReport], holdout: Mapping[str, int]) -> Look:
    """The look that comes after those of ``past``, oldest first, at a holdout of these shards with so many images.

    Reports from before looks were counted are looks too; which images theirs were is not known, so all of
    them count as images of today's holdout, and nothing is carried over from them.
    """
    base: GateReport | None = None
    family: list[GateReport] = []
    for report in past:
        if base is None or not _is_same(base, _shown(report)):
            base, family = report, []
        family.append(report)
    if base is None or not _is_same(base, holdout):
        base, family = None, []
    last = family[-1] if family else None
    carried = last.look.alpha if last is not None and last.look is not None and last.is_proved else 0.0
    num_base = sum(holdout.values()) if base is None else base.challenger.num_images
    number = len(family) + 1
    return Look(
        number=number,
        carried=carried,
        alpha=share(number) + carried,
        holdout=dict(holdout),
        fresh_at=2 * num_base,
        before=tuple(_past(report) for report in family),
    )


def replayed(look: Look) -> float:
    """The error rate that follows from a look's number and the looks before it."""
    last = look.before[-1] if look.before else None
    carried = last.alpha if last is not None and last.promoted and look.carried else 0.0
    return share(look.number) + carried


def _shown(report: GateReport) -> Mapping[str, int]:
    return {} if report.look is None else report.look.holdout


def _is_same(base: GateReport, holdout: Mapping[str, int]) -> bool:
    """Whether more than half of these images were in the first look. No shards: they are not known."""
    num_base, total = base.challenger.num_images, sum(holdout.values())
    if not holdout:
        return True
    first = _shown(base)
    common = sum(count for key, count in holdout.items() if key in first) if first else min(num_base, total)
    return 2 * common > total


def _past(report: GateReport) -> PastLook:
    return PastLook(
        generation=report.generation,
        champion=None if report.champion is None else report.champion.version,
        alpha=report.alpha if report.look is None else report.look.alpha,
        promoted=report.is_proved,
    )
