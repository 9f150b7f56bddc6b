"""One seed of one set: a teacher, the control, two students; and first students with something taken away.

The control is what the first student would be without pseudo-labels: the same architecture, noise, number of
steps, labeled batches and seed, trained as a generation 0 of its own. Each model is one generation of the
product from its plan to its verdict.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training import sets
from benchmarks.training.sets import ImageSet
from benchmarks.training.settings import QUICK, Setting, ablations
from benchmarks.training.world import Taught, opened
from understudy import recipes
from understudy.recipes import Turn
from understudy.records import GenerationRequest

MAKERS: dict[str, Callable[[int], ImageSet]] = {
    "digits": sets.digits,
    "fashion-mnist": sets.fashion_mnist,
    "clothing-photos": sets.clothing_photos,
}
TEACHER, CONTROL, FIRST, SECOND = "teacher", "control", "student 1", "student 2"

Show = Callable[[str, "Arm"], None]  # (name, what came of it)


@dataclass(frozen=True)
class Arm:
    """One trained model."""

    accuracy: dict[str, float]  #: of each test, 0 to 1
    calibration_error: float  #: on the first test
    seconds: float  #: of its generation
    verdict: str  #: what the gate said of it, against its teacher on the first test
    num_kept: int  #: different pseudo-labeled images


@dataclass(frozen=True)
class Chain:
    """How one seed of one set is measured, in a folder."""

    name: str
    setting: Setting
    seed: int
    folder: Path
    is_quick: bool = False
    has_second: bool = True  #: whether the first student teaches another

    def arms(self, show: Show) -> dict[str, Arm]:
        """Teacher, control and one or two students, each student the next one's teacher."""
        found = {TEACHER: self._teacher(), CONTROL: self._control()}
        show(TEACHER, found[TEACHER])
        show(CONTROL, found[CONTROL])
        for generation, name in ((1, FIRST), (2, SECOND))[: 1 + self.has_second]:
            found[name] = self._student(self._world, generation, {})
            show(name, found[name])
        return found

    def ablated(self, show: Show) -> dict[str, Arm]:
        """First students of the same teacher, each with something taken away."""
        found = {}
        teacher = self.folder / "teacher"
        if not teacher.exists():
            self._teacher()
        for ablation in ablations(self.setting):
            world = shutil.copytree(teacher, self.folder / "ablation")
            found[ablation.name] = self._student(world, 1, ablation.overrides)
            show(ablation.name, found[ablation.name])
            shutil.rmtree(world)
        return found

    @property
    def _world(self) -> Path:
        return self.folder / "world"

    def _teacher(self) -> Arm:
        """The first teacher; its world is kept as it is for the ablations."""
        with opened(self._world) as world:
            world.fill(self._images(), with_unlabeled=True)
            arm = _arm(world.teach(self._request(0, {})))
        shutil.copytree(self._world, self.folder / "teacher")
        return arm

    def _control(self) -> Arm:
        asked = recipes.recipe(self.setting.recipe, self._fields(1, {}), Turn(1))
        with opened(self.folder / "control") as world:
            world.fill(self._images(), with_unlabeled=False)
            return _arm(world.teach(self._request(1, {"teacher_steps": asked.student_steps})))

    def _student(self, folder: Path, generation: int, changed: dict[str, Any]) -> Arm:
        with opened(folder) as world:
            return _arm(world.teach(self._request(generation, changed)))

    def _request(self, generation: int, changed: dict[str, Any]) -> GenerationRequest:
        return GenerationRequest(
            recipe=self.setting.recipe,
            student=self.setting.students[generation],
            overrides=self._fields(generation, changed),
            seed=10 * self.seed + generation,  # a student has other fresh weights than its teacher had
        )

    def _fields(self, generation: int, changed: dict[str, Any]) -> dict[str, Any]:
        return self.setting.fields(generation) | changed | (QUICK if self.is_quick else {})

    def _images(self) -> ImageSet:
        images = MAKERS[self.name](self.seed)
        if not self.is_quick:
            return images
        few = {name: some[:: max(1, len(some) // 200)] for name, some in images.tests.items()}
        return ImageSet(images.labeled, images.unlabeled[:200], few)


def _arm(taught: Taught) -> Arm:
    first = next(iter(taught.tests.values()))
    return Arm(
        accuracy={name: evaluation.accuracy for name, evaluation in taught.tests.items()},
        calibration_error=first.calibration_error,
        seconds=taught.seconds,
        verdict=taught.verdict,
        num_kept=taught.num_kept,
    )
