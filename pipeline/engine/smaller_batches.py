"""What a training does that runs out of memory: the same batch in smaller parts, whose gradients add up to a step."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ignite.engine import Engine, Events

from pipeline.engine.memory import is_out_of_memory
from pipeline.engine.ranks import of_all_ranks
from pipeline.records.errors import InputError
from pipeline.records.files import write_json


@dataclass(frozen=True)
class Batches:
    """How many patches are computed at once, and how many such parts make an optimiser's step."""

    batch_size: int
    accumulation: int

    def halved(self) -> "Batches":
        """Returns the next smaller parts that add up to the same batch: halves, where it is even.

        Raises:
            InputError: ``out-of-memory``: a part is a single patch already.
        """
        if self.batch_size == 1:
            raise InputError("training", found="no memory for a single patch", wanted="room for one",
                             remedy="set a smaller `patch_size` or `width` in bundle.yaml, or free memory",
                             reason="out-of-memory")
        size = next(size for size in range(self.batch_size - 1, 0, -1) if self.batch_size % size == 0)
        return replace(self, batch_size=size, accumulation=self.accumulation * (self.batch_size // size))


def remembered(path: Path, planned: Batches) -> Batches:
    """Returns the parts that an earlier start of this training came to on any rank, the planned where none did."""
    own = Batches(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else planned
    return min(of_all_ranks(own), key=lambda batches: batches.batch_size)


def remember(path: Path, batches: Batches) -> None:
    """Writes the parts down for the next start of this training."""
    write_json(path, asdict(batches))


class ValidationMemory:
    """Ignite handler of an evaluator: says that it was a validation that ran out of memory, which no batch mends.

    Raises:
        InputError: ``out-of-memory``.
    """

    def attach(self, engine: Engine) -> None:
        """Registers the handler with the evaluator."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, _: Engine, error: BaseException) -> None:
        """Raises what it was called with, or what that means."""
        if is_out_of_memory(error):
            raise InputError("validation", found="no memory for one of its volumes", wanted="room for it",
                             remedy="crop the validation cases, set a smaller `patch_size` in bundle.yaml, or free "
                                    "memory", reason="out-of-memory") from error
        raise error
