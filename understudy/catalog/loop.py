"""Where the loop stands, and what it does next: for people, in one answer.

It decides nothing: what may be taken, ``pausing`` says where work is taken.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from understudy.catalog import generations
from understudy.catalog.database import Catalog
from understudy.catalog.pausing import THE_ROW
from understudy.catalog.tables import ChampionRow, LabeledImageRow, LabelSetRow, LoopRow, ShardRow
from understudy.records import JobState, LabelCounts, LoopNext, LoopState, LoopTurn

#: The step in which a generation can do nothing while nobody labels; as the trainer calls it.
WAITS_FOR_LABELS = "wait for labels"


def turn_after(catalog: Catalog, num_images: int) -> None:
    """Write down after how many newly labeled images the loop turns by itself, for ``state`` to tell."""
    is_new = and_(LoopRow.id == THE_ROW, LoopRow.generate_after != num_images)
    with catalog.read() as session:
        if session.scalar(select(LoopRow.id).where(is_new)) is None:
            return
    with catalog.write() as session:
        session.execute(update(LoopRow).where(is_new).values(generate_after=num_images))


def state(catalog: Catalog) -> LoopState:
    """Where the loop stands now."""
    generation = generations.newest(catalog)
    is_under_way = generation is not None and not generation.state.is_ended
    with catalog.read() as session:
        row = session.get_one(LoopRow, THE_ROW)
        champion = session.scalar(select(ChampionRow.version).order_by(ChampionRow.sequence.desc()).limit(1))
        labels, num_pseudo_labels = _labels(session, champion)
        num_images = session.scalar(select(func.sum(ShardRow.num_images)).where(ShardRow.split == "unlabeled"))
        has_labeled_set = session.scalar(select(LabeledImageRow.sha256).limit(1)) is not None
        seen: dict[str, Any] = {
            "paused": row.paused_at is not None,
            "by": row.paused_by,
            "since": row.paused_at,
            "reason": row.reason,
            "champion": champion,
            "generation": LoopTurn(
                number=generation.number,
                state=generation.state,
                step=generation.job.step,
                done=generation.job.done,
                total=generation.job.total,
            )
            if generation is not None and is_under_way
            else None,
            "labels": labels,
            "num_images": int(num_images or 0),
            "num_pseudo_labels": num_pseudo_labels,
            "generate_after": row.generate_after,
            "num_new_images": generations.num_new_images(session),
        }
    unsaid = LoopState(**seen, next=LoopNext.PERSON, why="")
    starts, why = _next(unsaid, has_labeled_set=has_labeled_set)
    return unsaid.model_copy(update={"next": starts, "why": why})


def _labels(session: Session, champion: str | None) -> tuple[LabelCounts, int]:
    """The champion's label sets by their state, and the images in those that are done."""
    if champion is None:
        return LabelCounts(), 0
    wished = and_(LabelSetRow.shard_id == ShardRow.id, LabelSetRow.version == champion)
    rows = session.execute(
        select(LabelSetRow.state, func.count(), func.coalesce(func.sum(LabelSetRow.num_rows), 0))
        .select_from(ShardRow)
        .outerjoin(LabelSetRow, wished)
        .where(ShardRow.split == "unlabeled")
        .group_by(LabelSetRow.state)
    ).all()
    num_sets: dict[str, int] = {}
    for state, count, _ in rows:  # without a row: sealed before the champion was, and not yet wished for
        num_sets[state or JobState.QUEUED] = num_sets.get(state or JobState.QUEUED, 0) + count
    counts = LabelCounts(
        num_wanted=num_sets.get(JobState.QUEUED, 0),
        num_running=num_sets.get(JobState.RUNNING, 0),
        num_done=num_sets.get(JobState.SUCCEEDED, 0),
        num_failed=num_sets.get(JobState.FAILED, 0),
    )
    done = [int(images or 0) for state, _, images in rows if state == JobState.SUCCEEDED]
    return counts, sum(done)


def _next(seen: LoopState, *, has_labeled_set: bool) -> tuple[LoopNext, str]:
    if seen.paused:
        return LoopNext.RESUME, _paused(seen)
    num_open = seen.labels.num_wanted + seen.labels.num_running
    if seen.generation is not None:
        return LoopNext.GENERATION, _under_way(seen.generation)
    if num_open:
        return LoopNext.LABELS, f"{_shards(num_open)} for labels of {seen.champion}"
    if seen.champion is None and not has_labeled_set:
        return LoopNext.LABELED_SET, "nothing: send labeled images with `understudy init`, and a first teacher trains"
    if seen.champion is not None and seen.generate_after:
        return LoopNext.GENERATION, (
            f"the next generation opens by itself after {seen.generate_after:,} newly labeled images; "
            f"there are {seen.num_new_images:,}"
        )
    if seen.champion is not None and not seen.num_images:
        return LoopNext.PERSON, "nothing: send unlabeled images with `understudy ingest`"
    return LoopNext.PERSON, "nothing: open a generation with `understudy generate`"


def _paused(seen: LoopState) -> str:
    assert seen.since is not None  # it is paused
    since = datetime.fromtimestamp(seen.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    held = f"paused by {seen.by} since {since} ({seen.reason}): nothing new starts until `understudy resume`"
    turn = seen.generation
    if turn is None or turn.step is None:
        return held
    goes_on = "waits for labels until then" if turn.step == WAITS_FOR_LABELS else "goes on to its end"
    return f"{held}; generation {turn.number} {goes_on}"


def _under_way(turn: LoopTurn) -> str:
    if turn.step is None:
        return f"generation {turn.number} waits for a trainer"
    progress = f" ({turn.done:,} of {turn.total:,})" if turn.total else ""
    return f"generation {turn.number} is under way: {turn.step}{progress}"


def _shards(count: int) -> str:
    return f"{count:,} shards wait" if count > 1 else "1 shard waits"
