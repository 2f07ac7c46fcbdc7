"""What an earlier training settled on dev, for the one that repeats it on more rows.

Notable: dev rows cost a student the labels it could have learned from. So once everything is chosen (the penalty of the
head, the number of epochs, how much the wide part counts), the same training is run on train and dev together and
chooses nothing: choose on held-out rows, then fit to all of them (Hastie et al. 2009, §7.10.1; ``refit`` in
scikit-learn's searches). Steps grow with the rows, so epochs, rates and the place where training ends stay the same.
Not here: whether there is time for it (``pipeline.pick``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locum.core.errors import LocumError
from locum.schema.training import Trained, TrainRequest
from locum.train.schedule import Schedule


@dataclass(frozen=True)
class Choices:
    """The choices of a training.

    Attributes:
        folder: of that training, for errors.
        settings: in force there, by name.
        best_epoch: whose weights were kept.
    """

    folder: str
    settings: dict[str, str | int | float | bool]
    best_epoch: float

    def number(self, name: str) -> float:
        """A choice that is a number.

        Raises:
            LocumError: that training did not write it down.
        """
        value = self.settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LocumError(
                "train-request", f"the training to repeat has no {name}", where=self.folder, fix="train it again"
            )
        return float(value)

    def schedule(self, steps_per_epoch: int, micro_batch: int | None) -> Schedule:
        """As many epochs as were planned then, ending where the kept weights were taken.

        Args:
            steps_per_epoch: over the rows of now.
            micro_batch: rows in one forward pass that was asked for, or None.

        Raises:
            LocumError: that training had no epochs.
        """
        total = round(self.number("planned_epochs") * steps_per_epoch)
        until = round(self.best_epoch * steps_per_epoch)
        return Schedule(total, steps_per_epoch, None, micro_batch, until, least_s=0.0)


def choices(request: TrainRequest) -> Choices | None:
    """The choices that a request takes over; None when it makes its own.

    Raises:
        LocumError: there is no finished training in that folder.
    """
    if request.repeat is None:
        return None
    file = Path(request.repeat) / "trained.json"
    if not file.is_file():
        raise LocumError("train-request", "no finished training to repeat", where=str(file), fix="train it first")
    trained = Trained.from_json(file.read_bytes(), str(file))
    return Choices(request.repeat, trained.settings, trained.best_epoch)
