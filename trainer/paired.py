"""What two models' answers to the same images prove: exact tests, intervals, power. Pure, and of counts alone.

Images on which both are right, or both wrong, say nothing about which is better. ``won`` counts those on which
the challenger alone is right, ``lost`` those on which the champion alone is.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, binomtest

from understudy.records import ClassGain, Gain, Interval

#: Of the interval of a difference, two-sided.
CONFIDENCE = 0.95
#: Resamples of the holdout. The ends of the interval are then true to about 3 % of its length.
NUM_RESAMPLES = 10_000
#: Any number: the same counts give the same interval.
SEED = 20
#: Beyond this many times the holdout, "more images" is no longer advice.
MAX_GROWTH = 1000
#: How far from the mean, in standard deviations, the number of disagreements is summed over.
TAIL = 6.0

Flags = npt.NDArray[np.bool_]  # (N,)


def paired_gain(challenger_right: Sequence[bool] | Flags, champion_right: Sequence[bool] | Flags) -> Gain:
    """Compare two models' answers to the same images, both (N,). Raises ValueError for different lengths."""
    ours, theirs = np.asarray(challenger_right, dtype=np.bool_), np.asarray(champion_right, dtype=np.bool_)
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} and {len(theirs)} answers are not of the same images; evaluate both again")
    both, won, lost = int((ours & theirs).sum()), int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return gain_of(both, won, lost, len(ours) - both - won - lost)


def gain_of(both_right: int, won: int, lost: int, both_wrong: int) -> Gain:
    """The gain that four counts make."""
    num_images = both_right + won + lost + both_wrong
    return Gain(
        both_right=both_right,
        only_challenger_right=won,
        only_champion_right=lost,
        both_wrong=both_wrong,
        difference=(won - lost) / num_images,
        p_value=sign_test(won, lost),
        interval=difference_interval(won, lost, num_images),
    )


def sign_test(won: int, lost: int) -> float:
    """The chance of at least ``won`` wins in ``won + lost`` fair coins: the one-sided exact McNemar test."""
    return float(binomtest(won, won + lost, 0.5, alternative="greater").pvalue) if won + lost else 1.0


def difference_interval(won: int, lost: int, num_images: int) -> Interval:
    """The bootstrap interval (percentiles) of the difference of two accuracies, from images resampled in pairs.

    The difference depends on three counts only, so that a resample of the images is a multinomial draw.
    Two models that never disagree have an interval of no length: then it says nothing of other images.
    """
    shares = np.array([won, lost, num_images - won - lost]) / num_images
    drawn = np.random.default_rng(SEED).multinomial(num_images, shares, NUM_RESAMPLES)  # (resamples, 3)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / num_images, [tail, 100 - tail])
    return Interval(low=float(low), high=float(high), confidence=CONFIDENCE)


def class_gains(counts: Sequence[tuple[str, int, int, int]], alpha: float, floor: float = 0.0) -> tuple[ClassGain, ...]:
    """Which classes are proved to have lost more than ``floor`` of recall: (name, images, won, lost) each.

    The chance that any class is called worse that is not is at most ``alpha`` (Holm 1979: the smallest of m
    p-values is held to alpha / m, the next to alpha / (m - 1), and so on until one fails).
    """
    p_values = [sign_test(lost, won) for _, _, won, lost in counts]
    limits, is_proved, failed = [0.0] * len(counts), [False] * len(counts), False
    for rank, i in enumerate(sorted(range(len(counts)), key=p_values.__getitem__)):
        limits[i] = alpha / (len(counts) - rank)
        failed = failed or p_values[i] > limits[i]
        is_proved[i] = not failed
    return tuple(
        ClassGain(
            name=name,
            num_images=num_images,
            only_challenger_right=won,
            only_champion_right=lost,
            difference=(difference := (won - lost) / max(num_images, 1)),
            p_value=p_values[i],
            limit=limits[i],
            is_worse=is_proved[i] and difference < -floor,
        )
        for i, (name, num_images, won, lost) in enumerate(counts)
    )


def power(num_images: int, discordance: float, difference: float, alpha: float) -> float:
    """The chance that the exact test proves a true gain of ``difference`` on so many images.

    ``discordance`` is the share of images on which exactly one of the two models is right; it is at least
    the difference.
    """
    discordance = min(1.0, max(discordance, difference))
    spread = TAIL * (num_images * discordance * (1 - discordance)) ** 0.5
    mean = num_images * discordance
    disagreements = np.arange(max(0, int(mean - spread)), min(num_images, int(mean + spread) + 1) + 1)  # (D,)
    needed = binom.isf(alpha, disagreements, 0.5) + 1  # (D,) fewest wins that prove it
    wins = (discordance + difference) / (2 * discordance)
    proved = binom.sf(needed - 1, disagreements, wins)
    return float((binom.pmf(disagreements, num_images, discordance) * proved).sum())


def images_needed(
    won: int, lost: int, num_images: int, alpha: float, *, fresh_at: int, fresh_alpha: float
) -> int | None:
    """How large a holdout would prove a gain, if all went on as in this one. None: none of a sensible size.

    ``alpha`` is what the next look at this holdout may use; one of ``fresh_at`` images may use ``fresh_alpha``.
    """
    if won <= lost:
        return None
    growth = np.arange(2, 2 * MAX_GROWTH + 1) / 2  # in halves of the holdout
    sizes = (num_images * growth).astype(np.int64)
    p_values = binom.sf(np.round(won * growth) - 1, np.round((won + lost) * growth), 0.5)
    enough = np.flatnonzero(p_values <= np.where(sizes >= fresh_at, max(fresh_alpha, alpha), alpha))
    return int(sizes[enough[0]]) if len(enough) else None
