"""The gate: is a challenger proved better than the champion? No proof, no promotion.

Pure: two measurements of the same images in, a report out, and the report's own numbers give the same
verdict again. A higher accuracy is no proof: on 600 images two equal models differ by a point every other time.
"""

from collections.abc import Sequence

from scipy.stats import binom, binomtest

from trainer.evaluate import Measured
from understudy.errors import Conflict
from understudy.records import Gain, GateReport

#: An equal challenger passes at most this often.
ALPHA = 0.05
#: A class may not lose any recall, if the loss is proved.
CLASS_FLOOR = 0.0
#: Beyond this many times the holdout, "more images" is no longer advice.
MAX_GROWTH = 1000

GAIN, FLOOR, FIRST = "paired-gain", "class-floor", "better-than-guessing"


def decide(generation: int, challenger: Measured, champion: Measured | None, *, alpha: float = ALPHA) -> GateReport:
    """Judge a challenger. Raises Conflict if the two were measured on different images."""
    if champion is None:
        return _first(generation, challenger, alpha)
    if champion.truth != challenger.truth or champion.holdout != challenger.holdout:
        raise Conflict(
            f"{challenger.evaluation.version} and {champion.evaluation.version} were measured on different "
            f"holdouts; evaluate both again"
        )
    gain = paired_gain(challenger.is_right, champion.is_right)
    worse = worse_classes(challenger, champion, alpha)
    is_better = gain.p_value <= alpha
    reasons = [_gain_in_words(gain, len(challenger.is_right), alpha), *worse]
    return GateReport(
        generation=generation,
        challenger=challenger.evaluation,
        champion=champion.evaluation,
        gain=gain,
        alpha=alpha,
        class_floor=CLASS_FLOOR,
        verdict="promote" if is_better and not worse else "refuse",
        rule=FLOOR if is_better and worse else GAIN,
        reasons=tuple(reasons),
    )


def paired_gain(challenger_right: Sequence[bool], champion_right: Sequence[bool]) -> Gain:
    """What two models' answers to the same images say: the one-sided exact McNemar test.

    Only the images on which exactly one of them is right count: if neither model were better, each of
    those would be a fair coin.
    """
    pairs = list(zip(challenger_right, champion_right, strict=True))
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    return Gain(
        both_right=pairs.count((True, True)),
        only_challenger_right=won,
        only_champion_right=lost,
        both_wrong=pairs.count((False, False)),
        difference=(won - lost) / len(pairs),
        p_value=sign_test(won, lost),
    )


def sign_test(won: int, lost: int) -> float:
    """The chance of at least ``won`` wins in ``won + lost`` fair coins: one-sided, exact."""
    return float(binomtest(won, won + lost, 0.5, alternative="greater").pvalue) if won + lost else 1.0


def worse_classes(challenger: Measured, champion: Measured, alpha: float) -> list[str]:
    """A sentence for each class that is proved to have lost recall; alpha is shared among the classes (Bonferroni)."""
    sentences = []
    for index, name in enumerate(challenger.classes):
        images = [i for i, truth in enumerate(challenger.truth) if truth == index]
        gain = paired_gain([challenger.is_right[i] for i in images], [champion.is_right[i] for i in images])
        p_value = sign_test(gain.only_champion_right, gain.only_challenger_right)
        if gain.difference < -CLASS_FLOOR and p_value <= alpha / len(challenger.classes):
            sentences.append(
                f"class {name} is proved worse: {gain.only_champion_right} of its {len(images)} images were lost "
                f"and {gain.only_challenger_right} won (p = {p_value:.2g}, limit {alpha / len(challenger.classes):.2g})"
            )
    return sentences


def images_needed(won: int, lost: int, num_images: int, alpha: float) -> int | None:
    """How large a holdout would prove a gain, if all went on as in this one. None: none of a sensible size."""
    if won <= lost:
        return None
    for growth in range(2, 2 * MAX_GROWTH + 1):  # in halves of the holdout
        if binom.sf(round(won * growth / 2) - 1, round((won + lost) * growth / 2), 0.5) <= alpha:
            return num_images * growth // 2
    return None


def _gain_in_words(gain: Gain, num_images: int, alpha: float) -> str:
    won, lost = gain.only_challenger_right, gain.only_champion_right
    seen = (
        f"of {num_images} holdout images the challenger alone is right on {won}, the champion alone on {lost} "
        f"({100 * gain.difference:+.1f} points, p = {gain.p_value:.2g}, limit {alpha:.2g})"
    )
    if gain.p_value <= alpha:
        return f"proved better: {seen}"
    if won <= lost:
        return f"not proved better: {seen}; it does not look better either"
    needed = images_needed(won, lost, num_images, alpha)
    advice = (
        f"about {needed:,} holdout images would prove such a gain" if needed else "no holdout would prove such a gain"
    )
    return f"not proved better: {seen}; {advice}"


def _first(generation: int, challenger: Measured, alpha: float) -> GateReport:
    """The first teacher has no champion to beat: it must beat whoever always says the most frequent class."""
    num_images, num_right = len(challenger.truth), sum(challenger.is_right)
    most_frequent = max(range(len(challenger.classes)), key=challenger.truth.count)
    share = challenger.truth.count(most_frequent) / num_images
    p_value = float(binomtest(num_right, num_images, share, alternative="greater").pvalue)
    is_better = p_value <= alpha
    reason = (
        f"{'proved' if is_better else 'not proved'} better than always answering {challenger.classes[most_frequent]}: "
        f"right on {num_right} of {num_images} holdout images ({num_right / num_images:.1%}), which that is on "
        f"{share:.1%} (p = {p_value:.2g}, limit {alpha:.2g})"
    )
    if not is_better:
        reason += "; label more images, or train longer"
    return GateReport(
        generation=generation,
        challenger=challenger.evaluation,
        champion=None,
        gain=None,
        alpha=alpha,
        class_floor=CLASS_FLOOR,
        verdict="promote" if is_better else "refuse",
        rule=FIRST,
        reasons=(reason,),
    )
