"""The gate: is a challenger proved better than the champion, and does it keep to its budgets? No proof, no promotion.

Pure: measurements of the same images in, a report out, and the report alone gives the same verdict again
(``replay``). A higher accuracy is no proof: on 600 images two equal models differ by a point every other time.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from trainer import looks, paired
from trainer.evaluate import Measured
from understudy.errors import Conflict
from understudy.recipes import Recipe
from understudy.records import Budget, ClassGain, Evaluation, Gain, GateReport, Guess, Look, Robustness, Rule

ALPHA = looks.ALPHA
#: A challenger that is worse in no class is refused for one at most this often. It is not shared among the looks at
#: a holdout, because this rule can only refuse.
CLASS_ALPHA = 0.05
#: A class may not lose any recall, if the loss is proved.
CLASS_FLOOR = 0.0
#: The gain whose chance of being proved is told with every report.
REFERENCE_GAIN = 0.02
#: So many classes are named in a sentence; all of them are in the report.
MAX_NAMED = 5

GAIN, FLOOR, FIRST = "paired-gain", "class-floor", "better-than-guessing"

Verdict = Literal["promote", "refuse"]


@dataclass(frozen=True)
class Limits:
    """What a challenger may cost; None: whatever it does."""

    calibration_loss: float | None = None  #: its calibration error less the champion's
    latency_ratio: float | None = None  #: its milliseconds for one image ÷ the champion's
    robustness_loss: float | None = None  #: its mean error under corruption less the champion's


@dataclass(frozen=True)
class Evidence:
    """All that the verdict follows from."""

    evaluation: Evaluation  #: the challenger's
    look: Look
    guess: Guess | None = None  #: of a first teacher; the rest is of a comparison with a champion
    gain: Gain | None = None
    classes: tuple[ClassGain, ...] = ()
    budgets: tuple[Budget, ...] = ()


def limits_of(recipe: Recipe) -> Limits:
    """The budgets that a recipe sets."""
    return Limits(recipe.max_calibration_loss, recipe.max_latency_ratio, recipe.max_robustness_loss)


def decide(
    generation: int,
    challenger: Measured,
    champion: Measured | None,
    *,
    look: Look | None = None,
    limits: Limits | None = None,
    robustness: tuple[Robustness | None, Robustness | None] = (None, None),
    control: Measured | None = None,
) -> GateReport:
    """Judge a challenger. Raises Conflict if any two were measured on different images.

    ``look`` says which error rate the proof is held to (None: this is the first look at the holdout), and
    ``robustness`` is the challenger's and the champion's. ``control`` is for information: it decides nothing.
    """
    look = look or looks.next_look((), {"": len(challenger.truth)})
    evidence = _first(challenger, look)
    if champion is not None:
        budgets = _budgets(challenger.evaluation, champion.evaluation, robustness, limits or Limits())
        evidence = _compared(challenger, champion, look, budgets)
    over_control = None if control is None else _gain(challenger, control)
    rules = judge(evidence)
    return GateReport(
        generation=generation,
        challenger=challenger.evaluation,
        champion=None if champion is None else champion.evaluation,
        gain=evidence.gain,
        alpha=look.alpha,
        class_floor=CLASS_FLOOR,
        verdict=verdict(rules),
        rule=decisive(rules).name,
        reasons=_reasons(rules, over_control),
        rules=rules,
        look=look,
        guess=evidence.guess,
        classes=evidence.classes,
        budgets=evidence.budgets,
        power=_power(evidence),
        images_needed=_images_needed(evidence),
        control=None if control is None else control.evaluation,
        control_gain=over_control,
    )


def replay(report: GateReport) -> Verdict:
    """The verdict that follows from a report's own counts. Raises Conflict for one that does not hold them."""
    return verdict(judge(evidence_of(report)))


def evidence_of(report: GateReport) -> Evidence:
    """What a report was judged by; every p-value, limit and share of alpha is computed anew from the counts."""
    look, evaluation = report.look, report.challenger
    if look is None or (report.gain is None) == (report.guess is None):
        raise Conflict(
            f"the report of generation {report.generation} was written before reports held what they were judged "
            f"by; it cannot be judged again"
        )
    look = look.model_copy(update={"alpha": looks.replayed(look)})
    if report.guess is not None:
        return Evidence(evaluation, look, guess=_guess(evaluation, report.guess.class_name, report.guess.num_images))
    assert report.gain is not None, "one of the two was seen above"
    gain, counts = report.gain, [_counts(one) for one in report.classes]
    return Evidence(
        evaluation,
        look,
        gain=paired.gain_of(gain.both_right, gain.only_challenger_right, gain.only_champion_right, gain.both_wrong),
        classes=paired.class_gains(counts, CLASS_ALPHA, report.class_floor),
        budgets=report.budgets,
    )


def judge(evidence: Evidence) -> tuple[Rule, ...]:
    """Every condition, the proof first."""
    if evidence.guess is not None:
        return (_guess_rule(evidence.guess, evidence),)
    return (_gain_rule(evidence), _floor_rule(evidence.classes), *(_budget_rule(one) for one in evidence.budgets))


def verdict(rules: tuple[Rule, ...]) -> Verdict:
    """Promoted is what is proved, the first rule, and breaks no other; what was not judged breaks nothing."""
    return "promote" if rules[0].passed and all(rule.passed is not False for rule in rules) else "refuse"


def decisive(rules: tuple[Rule, ...]) -> Rule:
    """The first rule that is broken; the proof if none is."""
    return next((rule for rule in rules if rule.passed is False), rules[0])


# -- from measurements to evidence --------------------------------------------------------------------


def _first(challenger: Measured, look: Look) -> Evidence:
    """The first teacher has no champion to beat: it must beat whoever always says the most frequent class."""
    most_frequent = max(range(len(challenger.classes)), key=challenger.truth.count)
    num_images = challenger.truth.count(most_frequent)
    guess = _guess(challenger.evaluation, challenger.classes[most_frequent], num_images)
    return Evidence(challenger.evaluation, look, guess=guess)


def _guess(evaluation: Evaluation, class_name: str, num_images: int) -> Guess:
    share = num_images / evaluation.num_images
    test = binomtest(evaluation.num_correct, evaluation.num_images, share, alternative="greater")
    return Guess(class_name=class_name, num_images=num_images, p_value=float(test.pvalue))


def _compared(challenger: Measured, champion: Measured, look: Look, budgets: tuple[Budget, ...]) -> Evidence:
    gain = _gain(challenger, champion)
    truth = np.asarray(challenger.truth)  # (N,)
    ours, theirs = np.asarray(challenger.is_right), np.asarray(champion.is_right)  # (N,) bool
    num_classes = len(challenger.classes)
    num_images, won, lost = (
        np.bincount(truth[chosen], minlength=num_classes).tolist()
        for chosen in (np.ones_like(ours), ours & ~theirs, theirs & ~ours)
    )
    counts = list(zip(challenger.classes, num_images, won, lost, strict=True))
    return Evidence(
        challenger.evaluation,
        look,
        gain=gain,
        classes=paired.class_gains(counts, CLASS_ALPHA, CLASS_FLOOR),
        budgets=budgets,
    )


def _gain(challenger: Measured, other: Measured) -> Gain:
    if other.truth != challenger.truth or other.holdout != challenger.holdout:
        raise Conflict(
            f"{challenger.evaluation.version} and {other.evaluation.version} were measured on different "
            f"holdouts; evaluate both again"
        )
    return paired.paired_gain(challenger.is_right, other.is_right)


def _budgets(
    challenger: Evaluation,
    champion: Evaluation,
    robustness: tuple[Robustness | None, Robustness | None],
    limits: Limits,
) -> tuple[Budget, ...]:
    ours, theirs = (None if one is None else one.mean_error for one in robustness)
    return (
        Budget(
            name="calibration",
            challenger=challenger.calibration_error,
            champion=champion.calibration_error,
            limit=limits.calibration_loss,
        ),
        Budget(
            name="latency",
            challenger=challenger.latency_ms,
            champion=champion.latency_ms,
            limit=limits.latency_ratio,
        ),
        Budget(name="robustness", challenger=ours, champion=theirs, limit=limits.robustness_loss),
    )


def _counts(one: ClassGain) -> tuple[str, int, int, int]:
    return one.name, one.num_images, one.only_challenger_right, one.only_champion_right


# -- from evidence to rules ---------------------------------------------------------------------------


def _guess_rule(guess: Guess, evidence: Evidence) -> Rule:
    seen, look = evidence.evaluation, evidence.look
    passed = guess.p_value <= look.alpha
    sentence = (
        f"{'proved' if passed else 'not proved'} better than always answering {guess.class_name}: right on "
        f"{seen.num_correct} of {seen.num_images} holdout images ({seen.accuracy:.1%}), which that is on "
        f"{guess.num_images / seen.num_images:.1%} (p = {guess.p_value:.2g}, limit {_limit(look)})"
    )
    advice = "" if passed else "; label more images, or train longer"
    return Rule(name=FIRST, passed=passed, value=guess.p_value, limit=look.alpha, sentence=sentence + advice)


def _gain_rule(evidence: Evidence) -> Rule:
    gain, look = evidence.gain, evidence.look
    assert gain is not None, "without a champion there is another rule"
    won, lost = gain.only_challenger_right, gain.only_champion_right
    passed = gain.p_value <= look.alpha
    sentence = (
        f"{'proved' if passed else 'not proved'} better: of {evidence.evaluation.num_images} holdout images the "
        f"challenger alone is right on {won}, the champion alone on {lost} ({_points(gain)}, "
        f"p = {gain.p_value:.2g}, limit {_limit(look)})"
    )
    if not passed:
        sentence += f"; {_advice(evidence, won, lost)}"
    return Rule(name=GAIN, passed=passed, value=gain.p_value, limit=look.alpha, sentence=sentence)


def _advice(evidence: Evidence, won: int, lost: int) -> str:
    chance = f"on so many a true gain of {100 * REFERENCE_GAIN:.0f} points is proved {_power(evidence):.0%} of the time"
    if won <= lost:
        return f"it does not look better either; {chance}"
    needed = _images_needed(evidence)
    if needed is None:
        return f"no holdout would prove such a gain; {chance}"
    return f"about {needed:,} holdout images would prove such a gain; {chance}"


def _floor_rule(classes: tuple[ClassGain, ...]) -> Rule:
    worse = sorted((one for one in classes if one.is_worse), key=lambda one: one.p_value)
    sentences = [
        f"class {one.name} is proved worse: {one.only_champion_right} of its {one.num_images} images were lost "
        f"and {one.only_challenger_right} won (p = {one.p_value:.2g}, limit {one.limit:.2g})"
        for one in worse[:MAX_NAMED]
    ]
    if len(worse) > MAX_NAMED:
        sentences.append(f"and so are {len(worse) - MAX_NAMED} more classes")
    sentence = "; ".join(sentences) or f"none of {len(classes)} classes is proved worse"
    return Rule(name=FLOOR, passed=not worse, value=len(worse), limit=0, sentence=sentence)


#: What a budget's figure is called, and how it and its limit are written.
_BUDGET_WORDS = {
    "calibration": ("calibration error", "{:.3f}", "{:+.3f}"),
    "latency": ("one image takes", "{:.3g} ms", "{:.2f} times"),
    "robustness": ("mean error under corruption", "{:.3f}", "{:+.3f}"),
}


def _budget_rule(budget: Budget) -> Rule:
    ours, theirs, limit = budget.challenger, budget.champion, budget.limit
    words, of_one, of_both = _BUDGET_WORDS[budget.name]
    if ours is None or theirs is None:
        sentence = f"not judged: {budget.name} was not measured"
        return Rule(name=budget.name, passed=None, value=None, limit=limit, sentence=sentence)
    value = ours / theirs if budget.name == "latency" else ours - theirs
    seen = f"{words} {of_one.format(ours)}, the champion's {of_one.format(theirs)}: {of_both.format(value)}"
    if limit is None:
        sentence = f"not judged: the recipe sets no limit; {seen}"
        return Rule(name=budget.name, passed=None, value=value, limit=None, sentence=sentence)
    passed = value <= limit
    sentence = f"{'within' if passed else 'over'} budget: {seen}, at most {of_both.format(limit)}"
    return Rule(name=budget.name, passed=passed, value=value, limit=limit, sentence=sentence)


def _power(evidence: Evidence) -> float | None:
    """The chance that a true gain of ``REFERENCE_GAIN`` would have been proved at this look."""
    if (gain := evidence.gain) is None:
        return None
    num_images = evidence.evaluation.num_images
    discordance = (gain.only_challenger_right + gain.only_champion_right) / num_images
    return paired.power(num_images, discordance, REFERENCE_GAIN, evidence.look.alpha)


def _images_needed(evidence: Evidence) -> int | None:
    gain, look = evidence.gain, evidence.look
    if gain is None or gain.p_value <= look.alpha:
        return None
    return paired.images_needed(
        gain.only_challenger_right,
        gain.only_champion_right,
        evidence.evaluation.num_images,
        looks.share(look.number + 1),
        fresh_at=look.fresh_at,
        fresh_alpha=looks.share(1),
    )


# -- in words -----------------------------------------------------------------------------------------


def _reasons(rules: tuple[Rule, ...], over_control: Gain | None) -> tuple[str, ...]:
    """The proof, what is broken, what could not be judged although it should be, and what pseudo-labels were worth."""
    unmeasured = [rule.name for rule in rules if rule.passed is None and rule.value is None and rule.limit is not None]
    return (
        rules[0].sentence,
        *(rule.sentence for rule in rules[1:] if rule.passed is False),
        *([f"not measured, so not judged: {', '.join(unmeasured)}"] if unmeasured else []),
        *([] if over_control is None else [f"over the control trained on labels alone: {_points(over_control)}"]),
    )


def _points(gain: Gain) -> str:
    assert gain.interval is not None, "every gain of this module has one"
    low, high = gain.interval.low, gain.interval.high
    return (
        f"{100 * gain.difference:+.1f} points, {gain.interval.confidence:.0%} interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}"
    )


def _limit(look: Look) -> str:
    return f"{look.alpha:.2g} at look {look.number}"
