"""Several processes that train one student, as ``torchrun`` starts them; alone it is one, and costs nothing.

Rank 0 claims generations and does all there is to do; the others hear from it what to train, and train along.
Whoever cannot go on says so where all meet, before a step; one that ends inside of a step, or is killed, ends all:
its connections close, every other process raises RanksLost, and torchrun stops what is left. No pickle: what is
told is JSON, what is shared are tensors.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from understudy.errors import SettingsRefused

log = logging.getLogger(__name__)

#: A process that does not come to a step for so long is taken for dead. A slow checkpoint takes seconds.
STEP_TIMEOUT = timedelta(minutes=10)
#: Between two generations nobody knows how long the next one is awaited.
IDLE_TIMEOUT = timedelta(days=365)


class RanksLost(RuntimeError):
    """Another process of this training has ended or hangs: nothing can be trained together any more."""


class RankLeft(Exception):
    """Another process cannot go on with this training, and said so: the next one may be begun together."""


@dataclass
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    control: Any = None  #: the group over which rank 0 tells; None: alone
    is_broken: bool = field(default=False, init=False)  #: a step was left in its middle: this process must end
    is_ending: bool = field(default=False, init=False)  #: one of several was asked to end, so all do

    # -- what to do, told by rank 0 ---------------------------------------------------------------

    def tell(self, document: bytes = b"") -> bytes:
        """What rank 0 tells, in every process; the others wait for it, and what they give counts for nothing."""
        if self.size == 1:
            return document
        with self._with_others():
            length = torch.tensor([len(document)])
            distributed.broadcast(length, 0, group=self.control)
            if not int(length):
                return b""
            content = torch.frombuffer(bytearray(document.ljust(int(length), b"\0")), dtype=torch.uint8)
            distributed.broadcast(content, 0, group=self.control)
        return bytes(content.numpy())

    # -- meeting ----------------------------------------------------------------------------------

    @contextmanager
    def together(self, *, is_stopping: bool = False) -> Iterator[bool]:
        """All processes run the block at once; gives whether any of them shall stop. Raises RankLeft and RanksLost."""
        shall_stop = self._meet(is_stopping, has_left=False)
        self.is_broken = self.size > 1
        yield shall_stop
        self.is_broken = False

    def leave(self) -> None:
        """Tell the others that this process cannot go on; they raise RankLeft where they meet."""
        if self.size == 1 or self.is_broken:
            return
        try:
            self._meet(False, has_left=True)
        except RankLeft:
            return

    def _meet(self, is_stopping: bool, *, has_left: bool) -> bool:
        if self.size == 1:
            return is_stopping
        flags = torch.tensor([int(is_stopping), int(has_left)])
        with self._with_others():
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        if flags[1]:
            raise RankLeft("another process of this training cannot go on; its own log says why")
        self.is_ending = self.is_ending or bool(flags[0])
        return bool(flags[0])

    @contextmanager
    def _with_others(self) -> Iterator[None]:
        """Exchange something; after a failure there is nobody to meet any more. Raises RanksLost."""
        try:
            with _in_words():
                yield
        except RanksLost:
            self.is_broken = True
            raise

    # -- tensors ----------------------------------------------------------------------------------

    def add_up(self, gradients: list[Tensor], sums: Tensor) -> None:
        """Replace gradients and sums by their totals over all processes, in one exchange."""
        if self.size == 1:
            return
        every = [*gradients, sums]
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in every])
        with self._with_others():
            distributed.all_reduce(flat)
        at = 0
        for tensor in every:
            tensor.copy_(flat[at : at + tensor.numel()].view(tensor.shape))
            at += tensor.numel()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what rank 0 has in these tensors, in place."""
        for tensor in tensors if self.size > 1 else ():
            whole = tensor.detach().contiguous()
            with self._with_others():
                distributed.broadcast(whole, 0)
            if self.rank:
                tensor.detach().copy_(whole)


#: One process that trains by itself.
ALONE = Ranks()


def total(tensor: Tensor) -> Tensor:
    """The sum of what all processes have here; only where there are several, and within a step."""
    whole = tensor.detach().clone(memory_format=torch.contiguous_format)
    with _in_words():
        distributed.all_reduce(whole)
    return whole


@contextmanager
def _in_words() -> Iterator[None]:
    """Say in words what the backends say in addresses."""
    try:
        yield
    except RuntimeError as error:
        raise RanksLost(
            f"a process that trained along has ended or does not answer, so this one ends too; look at the log of the "
            f"other ranks ({str(error).splitlines()[0][:200]})"
        ) from error


def device(name: str) -> str:
    """The torch device that a process uses: each of several on a machine has a GPU of its own.

    Raises SettingsRefused for one that torch does not know or does not find on this machine.
    """
    if distributed.is_torchelastic_launched() and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{distributed.get_node_local_rank(0) % torch.cuda.device_count()}"
    if name != "auto":  # its own: on another's GPU even an empty tensor takes hundreds of megabytes
        _require(name)
    return name


def _require(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter is what a torch without CUDA raises
        reason = str(error).splitlines()[0]
        raise SettingsRefused(f"UNDERSTUDY_DEVICE={name!r} is not to be had here: {reason}") from error


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that torchrun started with this one; alone without it. ``device`` is torch's, for tensors."""
    if not distributed.is_torchelastic_launched():
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=STEP_TIMEOUT)
    try:
        control = distributed.new_group(backend="gloo", timeout=IDLE_TIMEOUT)
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), control)
        log.info("rank %d of %d", ranks.rank, ranks.size)
        yield ranks
    finally:
        distributed.destroy_process_group()
