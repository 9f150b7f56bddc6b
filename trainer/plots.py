"""Pictures of what was measured, as PNG files: the only door to matplotlib.

Every figure is an object of its own: nothing here touches pyplot, whose state is the process's.
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from understudy.records import Evaluation, History, Robustness

Points = Sequence[tuple[float, float]]

DPI = 100
#: Above these, names of classes no longer fit, and counts neither.
MAX_NAMES, MAX_COUNTS = 40, 20
#: Letters of a class's name.
MAX_LETTERS = 24


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


def reliability_diagram(evaluation: Evaluation) -> bytes:
    """How often a model is right by how sure it is, and how many images that is, as a PNG file."""
    bins = [one for one in evaluation.reliability if one.num_images]
    middles = [(one.low + one.high) / 2 for one in bins]
    width = 1 / max(len(evaluation.reliability), 1)
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    upper.bar(middles, [one.num_correct / one.num_images for one in bins], width, edgecolor="white", label="right")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.legend(loc="upper left")
    _title(upper, f"{evaluation.version}: calibration error {evaluation.calibration_error:.3f}")
    lower.bar(middles, [one.num_images for one in bins], width, edgecolor="white", color="grey")
    lower.set(xlabel="confidence", ylabel="images")
    return _png(figure)


def confusion_plot(matrix: npt.NDArray[np.int64], truth: Sequence[str], answers: Sequence[str], version: str) -> bytes:
    """The confusion matrix, (T, A) images, each row as shares of its class, as a PNG file."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    inches = float(np.clip(0.35 * max(matrix.shape), 4, 14))
    figure = Figure(figsize=(inches + 2, inches + 1), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto", interpolation="nearest")
    figure.colorbar(drawn, label="share of the class")
    axes.set(xlabel="answer", ylabel="true class")
    _title(axes, f"{version}: {int(matrix.sum())} images of the holdout")
    if max(matrix.shape) <= MAX_NAMES:
        _name(axes, truth, answers)
    if max(matrix.shape) <= MAX_COUNTS:
        _count(axes, shares, matrix)
    return _png(figure)


def robustness_heat_map(robustness: Robustness) -> bytes:
    """The error under each corruption by severity, as a PNG file."""
    errors = np.array(list(robustness.errors.values()))  # (corruptions, severities)
    figure = Figure(figsize=(6, 0.4 * len(errors) + 1.5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(errors, vmin=0, vmax=1, cmap="magma_r", aspect="auto")
    figure.colorbar(drawn, label="error")
    _name(axes, list(robustness.errors), [str(1 + i) for i in range(errors.shape[1])], rotation=0)
    _count(axes, errors, np.array([[f"{100 * error:.0f}" for error in row] for row in errors]))
    axes.set(xlabel="severity")
    _title(
        axes,
        f"{robustness.version}: error {robustness.clean_error:.1%} as they are, {robustness.mean_error:.1%} corrupted\n"
        f"({robustness.num_images} images of the holdout)",
    )
    return _png(figure)


def _draw(axes: Axes, name: str, series: dict[str, Points], num_steps: int) -> None:
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


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str], *, rotation: int = 90) -> None:
    # A class may be called $x: that is a name, not a formula.
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows], parse_math=False)
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=rotation, parse_math=False)


def _count(axes: Axes, shares: npt.NDArray[np.float64], shown: npt.NDArray[np.generic]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, str(shown[row, column]), ha="center", va="center", fontsize=7, color=colour)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=10, parse_math=False)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks: boxes stand for them
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()
