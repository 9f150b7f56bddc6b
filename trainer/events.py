"""A run's history as a TensorBoard event file.

It is written anew as a whole each time, from the history that the checkpoints hold: so a run that was killed and went
on shows no step twice. Each time it begins with the same records, so that a TensorBoard that has read some reads on.
"""

import tempfile
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from understudy.records import History

#: TensorBoard takes any file for events that has ``tfevents`` in its name.
FILE_NAME = "events.out.tfevents.understudy"


def event_file(history: History, began_at: float, spool: Path | None) -> bytes:
    """The event file's bytes. ``began_at`` is when training began, in seconds since 1970."""
    with tempfile.TemporaryDirectory(dir=spool) as folder:
        with SummaryWriter(folder) as writer:
            for step, values, seconds in _scalars(history):
                for tag, value in values.items():
                    writer.add_scalar(tag, value, step, walltime=began_at + seconds)
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _scalars(history: History) -> list[tuple[int, dict[str, float], float]]:
    """(step, value of each tag, seconds of training), by step: what is added later comes last."""
    of_lines = [
        (
            line.step,
            {"loss/total": line.loss, "loss/labeled": line.labeled_loss}
            | ({} if line.pseudo_loss is None else {"loss/pseudo": line.pseudo_loss})
            | {
                "train/learning_rate": line.learning_rate,
                "train/gradient_norm": line.gradient_norm,
                "train/images_per_second": line.images_per_second,
            },
            line.seconds,
        )
        for line in history.lines
    ]
    times = [(line.step, line.seconds) for line in history.lines]
    of_validations = [
        (
            one.step,
            {"ema/accuracy": one.accuracy},
            max((seconds for step, seconds in times if step <= one.step), default=0.0),
        )
        for one in history.validations
    ]
    return sorted(of_lines + of_validations, key=lambda scalars: scalars[0])
