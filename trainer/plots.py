"""Pictures of figures, as PNG files: the only file that draws.

matplotlib's objects, without pyplot: no global state, no window, any thread.
"""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from understudy.records import History

Points = Sequence[tuple[float, float]]


def curves(history: History, title: str) -> bytes:
    """The curves of a training run over its steps: losses, learning rate, accuracy of the averaged student, speed."""
    lines = history.lines
    both = [line for line in lines if line.pseudo_loss is not None]  # else the loss is the labeled one
    panels: list[tuple[str, dict[str, Points]]] = [
        (
            "loss",
            {
                "loss": [(line.step, line.loss) for line in lines],
                "labeled": [(line.step, line.labeled_loss) for line in both],
                "pseudo": [(line.step, line.pseudo_loss or 0.0) for line in both],
            },
        ),
        ("accuracy of the averaged student", {"": [(one.step, one.accuracy) for one in history.validations]}),
        ("learning rate", {"": [(line.step, line.learning_rate) for line in lines]}),
        ("gradient norm", {"": [(line.step, line.gradient_norm) for line in lines]}),
    ]
    figure = Figure(figsize=(10, 6.5), layout="tight")
    figure.suptitle(title)
    for axes, (name, series) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        _draw(axes, name, series, max(1, history.num_steps))
    return _png(figure)


def _draw(axes: Any, name: str, series: dict[str, Points], num_steps: int) -> None:
    axes.set_title(name, fontsize=10)
    axes.set_xlim(0, num_steps)
    axes.grid(alpha=0.3)
    drawn = {label: points for label, points in series.items() if points}
    for label, points in drawn.items():
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=label, linewidth=1.2, marker="o" if len(points) < 30 else None, markersize=3)
    if len(drawn) > 1:
        axes.legend(fontsize=8)
    if not drawn:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="gray")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
