"""What ``python -m trainer`` does: takes generations from the catalog, one at a time, until it is told to end."""

import logging
import threading
from contextlib import closing
from functools import partial

import torch

from trainer import distributed, generation, tracking, train
from trainer.distributed import Ranks
from trainer.progress import Progress, Stopped
from trainer.steps.teaching import train_along
from trainer.work import Workplace
from understudy import messages
from understudy.catalog import Catalog, claims, generations, jobs
from understudy.catalog.claims import Claim
from understudy.engine import available_cores
from understudy.errors import LeaseLost, UnderstudyError
from understudy.records import Problem
from understudy.settings import TrainerSettings
from understudy.store import Store

log = logging.getLogger("trainer")

#: Left to the threads that make batches, and to the service beside us. Torch's threads wait for each
#: other many times a step: on two busy cores a small student took 1,000 ms a step with two, 43 with one.
CORES_FOR_OTHERS = 1

STOPPED = Problem(code=claims.STOPPED, detail="its trainer was asked to end; another one goes on")


def run(read: TrainerSettings, stopping: threading.Event) -> int:
    """Open what the settings name, work until ``stopping`` is set, close it; gives the exit status."""
    tracking.require(read.mlflow_url)
    torch.set_num_threads(max(1, available_cores() - CORES_FOR_OTHERS))
    device = distributed.device(read.device)
    with distributed.joined(device) as ranks:
        if ranks.rank > 0:
            train_along(Store(read.store_url), device, ranks, read.data_workers, stopping.is_set)
            return 0
        lead(read, device, ranks, stopping)
        return 1 if ranks.is_broken else 0


def lead(read: TrainerSettings, device: str, ranks: Ranks, stopping: threading.Event) -> None:
    """Work as the only process, or as the first of several."""
    with closing(Catalog(read.catalog_url)) as catalog:
        catalog.migrate()
        place = Workplace(
            catalog,
            Store(read.store_url),
            device,
            read.provider,
            read.poll_s,
            ring=partial(messages.ring, messages.celery_app(read.broker_url), messages.LABEL),
            mlflow_url=read.mlflow_url,
            spool=read.spool,
            ranks=ranks,
            data_workers=read.data_workers,
        )
        work(place, stopping, lease_s=read.lease_s)
    if not ranks.is_broken:
        ranks.tell(b"")  # the end


def work(place: Workplace, stopping: threading.Event, *, lease_s: float) -> None:
    """Take one generation after the other until ``stopping`` is set, here or in a process that trains along."""
    log.info("ready")
    while not (stopping.is_set() or place.ranks.is_broken or place.ranks.is_ending):
        claim = generations.claim(place.catalog, lease_s=lease_s)
        if claim is None:
            stopping.wait(place.poll_s)
        elif not attempt(place, claim, stopping):
            stopping.wait(place.poll_s * claim.attempt)  # what has just failed is not hammered
    log.info("ended")


def attempt(place: Workplace, claim: Claim, stopping: threading.Event) -> bool:
    """Work on one claimed generation; whatever happens, the catalog says so. False: it was given back."""
    try:
        return _attempt(place, claim, stopping)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return True


def _attempt(place: Workplace, claim: Claim, stopping: threading.Event) -> bool:
    catalog = place.catalog
    job_id = str(claim.id)
    try:
        with claims.keep(catalog, claim):
            turn = generations.of_job(catalog, job_id)
            log.info("generation %d, attempt %d", turn.number, claim.attempt)
            generation.run(place, claim, Progress(catalog, claim, stopping), turn)
    except Stopped:
        claims.give_back(catalog, claim, STOPPED, is_forgiven=True, max_attempts=generations.MAX_ATTEMPTS)
        return False
    except LeaseLost:
        raise
    except UnderstudyError as refusal:
        log.warning("job %s: %s: %s", job_id, refusal.code, refusal)
        jobs.fail(catalog, claim, Problem(code=refusal.code, detail=str(refusal)))
    except Exception as fault:
        log.exception("job %s failed, and is given back", job_id)
        problem = Problem(code="internal", detail=f"{type(fault).__name__}: {fault}")
        is_full = isinstance(fault, OSError) and fault.errno in train.NO_ROOM  # the work is not to blame
        claims.give_back(catalog, claim, problem, is_forgiven=is_full, max_attempts=generations.MAX_ATTEMPTS)
        return False
    return True
