"""Two versions on the same holdout, image by image, from what the trainer kept when it measured each.

It counts and lists; what is proved by the counts is the gate's to say. Images are those of the holdout: who reads
them to tune recipes learns it by heart (docs/gate.md).
"""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from understudy.errors import NotFound
from understudy.generation_records import (
    ComparedClass,
    ComparedConfusion,
    ComparedImage,
    Comparison,
    PairOutcome,
)
from understudy.records import ModelVersion, Record, Robustness
from understudy.shards import read_manifest
from understudy.store import Store, generation_key

#: Of a thousand classes there are a million kinds of mistakes; people look at the first.
MAX_CONFUSIONS = 200


class Answers(Record):
    """What of a measurement's file is needed: each image's class, and what a version said of it."""

    model_config = ConfigDict(extra="ignore")

    holdout: tuple[str, ...]  #: keys of the shards, in the order of the images
    classes: tuple[str, ...]
    truth: tuple[int, ...]  #: of each image, an index into ``classes``
    predicted: tuple[int, ...] = ()  #: an index into ``model_classes``; empty: measured before it was kept
    model_classes: tuple[str, ...] = ()
    packed_confidence: str = ""  #: little-endian float32 in base64; empty: as above

    def named(self) -> list[str]:
        """The class that each image was given."""
        return [self.model_classes[i] for i in self.predicted]

    def confidence(self) -> list[float | None]:
        """How sure the version was of each answer."""
        values = np.frombuffer(base64.b64decode(self.packed_confidence), dtype="<f4")
        return [min(1.0, float(value)) for value in values] or [None] * len(self.predicted)


@dataclass(frozen=True)
class Pair:
    """Two versions' answers to the same images, in the same order."""

    challenger: str
    champion: str
    ours: Answers
    theirs: Answers
    robustness: tuple[Robustness | None, Robustness | None] = (None, None)

    def outcomes(self) -> Iterator[tuple[str, str, str, PairOutcome]]:
        """Of each image: its class, the challenger's answer, the champion's, and who is right."""
        truth = (self.ours.classes[i] for i in self.ours.truth)
        for name, ours, theirs in zip(truth, self.ours.named(), self.theirs.named(), strict=True):
            yield name, ours, theirs, _OUTCOMES[ours == name, theirs == name]


_OUTCOMES = {
    (True, False): PairOutcome.WON,
    (False, True): PairOutcome.LOST,
    (True, True): PairOutcome.BOTH_RIGHT,
    (False, False): PairOutcome.BOTH_WRONG,
}


def find(store: Store, challenger: ModelVersion, champion: ModelVersion) -> Pair:
    """What both answered to the same holdout. Raises NotFound if they were never measured on one."""
    files = {
        key.rsplit("/", 1)[1]: key
        for number in (champion.generation, challenger.generation)  # the later one's own files win
        for key in store.list(generation_key(number, "").rstrip("/"))
        if key.startswith((generation_key(number, "evaluation-"), generation_key(number, "robustness-")))
    }
    for name, key in reversed(files.items()):
        holdout = name.removeprefix(f"evaluation-{challenger.id}-")
        other = files.get(f"evaluation-{champion.id}-{holdout}")
        if holdout != name and other is not None:
            ours, theirs = (Answers.model_validate_json(store.get(each)) for each in (key, other))
            if ours.predicted and theirs.predicted:
                robust = [files.get(f"robustness-{one.id}-{holdout}") for one in (challenger, champion)]
                return Pair(challenger.id, champion.id, ours, theirs, _robustness(store, *robust))
    raise NotFound(
        f"{challenger.id} and {champion.id} were not measured on the same holdout; "
        f"a version can be compared with the champion that the gate judged it against"
    )


def _robustness(store: Store, ours: str | None, theirs: str | None) -> tuple[Robustness | None, Robustness | None]:
    """What both were measured at; only where both were on the same sample can the two be compared."""
    if ours is None:
        return None, None
    first = Robustness.model_validate_json(store.get(ours))
    second = Robustness.model_validate_json(store.get(theirs)) if theirs is not None else None
    return first, second if second is not None and second.sample == first.sample else None


def comparison(pair: Pair) -> Comparison:
    """The counts of a pair."""
    totals: Counter[PairOutcome] = Counter()
    by_class: dict[str, Counter[PairOutcome]] = {name: Counter() for name in pair.ours.classes}
    ours: Counter[tuple[str, str]] = Counter()
    theirs: Counter[tuple[str, str]] = Counter()
    for truth, challenger, champion, outcome in pair.outcomes():
        totals[outcome] += 1
        by_class[truth][outcome] += 1
        ours[truth, challenger] += 1
        theirs[truth, champion] += 1
    return Comparison(
        challenger=pair.challenger,
        champion=pair.champion,
        num_images=totals.total(),
        won=totals[PairOutcome.WON],
        lost=totals[PairOutcome.LOST],
        both_right=totals[PairOutcome.BOTH_RIGHT],
        both_wrong=totals[PairOutcome.BOTH_WRONG],
        classes=tuple(
            ComparedClass(name=name, num_images=count.total(), won=count[PairOutcome.WON], lost=count[PairOutcome.LOST])
            for name, count in by_class.items()
        ),
        confusions=_changed(ours, theirs),
        challenger_robustness=pair.robustness[0],
        champion_robustness=pair.robustness[1],
    )


def _changed(ours: Counter[tuple[str, str]], theirs: Counter[tuple[str, str]]) -> tuple[ComparedConfusion, ...]:
    mistakes = [(truth, answer) for truth, answer in ours.keys() | theirs.keys() if truth != answer]
    mistakes.sort(key=lambda one: (-abs(ours[one] - theirs[one]), -max(ours[one], theirs[one]), one))
    return tuple(
        ComparedConfusion(truth=one[0], answer=one[1], challenger=ours[one], champion=theirs[one])
        for one in mistakes[:MAX_CONFUSIONS]
    )


def images(
    store: Store,
    pair: Pair,
    *,
    outcome: PairOutcome | None = None,
    class_name: str | None = None,
    offset: int = 0,
    limit: int = 100,
) -> list[ComparedImage]:
    """The images of a pair with that outcome and of that class, in the holdout's order. Raises NotFound if a shard is gone."""
    try:
        ids = [member.sha256 for key in pair.ours.holdout for member in read_manifest(store, key).members]
    except FileNotFoundError as error:
        raise NotFound(f"the holdout that {pair.challenger} was measured on is not in the store ({error})") from error
    sure, was_sure = pair.ours.confidence(), pair.theirs.confidence()
    wanted = [
        (i, one) for i, one in enumerate(pair.outcomes()) if outcome in (None, one[3]) and class_name in (None, one[0])
    ]
    return [
        ComparedImage(
            sha256=ids[i],
            truth=truth,
            challenger=ours,
            challenger_confidence=sure[i],
            champion=theirs,
            champion_confidence=was_sure[i],
            outcome=found,
        )
        for i, (truth, ours, theirs, found) in wanted[offset : offset + limit]
    ]
