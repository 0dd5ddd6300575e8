"""One training against the clock."""

import gc
import time
from dataclasses import dataclass, field

import keras
from contestants import Contestant
from workloads import Workload


class Target(keras.callbacks.Callback):
    """Stops when two validations running have reached the target; keeps the scores."""

    def __init__(self, workload: Workload, target: float) -> None:
        super().__init__()
        self.workload, self.target = workload, target
        self.scores: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.scores.append(float((logs or {})[self.workload.score]))
        self.model.stop_training = self.reached

    @property
    def reached(self) -> bool:
        last = self.scores[-2:]
        return len(last) == 2 and all(self.workload.reaches(s, self.target) for s in last)


@dataclass(frozen=True)
class Result:
    """What a training took, from building the model to the second validation at the target."""

    hit: bool
    steps: int
    wall: float
    cpu: float
    test: float
    scores: list[float] = field(repr=False)


def run(contestant: Contestant, workload: Workload, target: float, seed: int) -> Result:
    """Trains anew. The clock counts building, tracing, compiling, training and validating."""
    data = workload.data()
    workload.prepare(seed)
    keras.utils.clear_session()
    gc.collect()
    keras.utils.set_random_seed(seed)
    watch = Target(workload, target)
    wall, cpu = time.perf_counter(), time.process_time()
    model = contestant.model(workload, seed)
    model.fit(
        *data.train,
        batch_size=workload.batch,
        epochs=workload.epochs,
        validation_data=data.validation,
        validation_batch_size=256,
        callbacks=[*contestant.callbacks(), watch],
        verbose=0,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    steps = len(watch.scores) * (len(data.train[0]) // workload.batch)
    return Result(watch.reached, steps, wall, cpu, test_score(model, workload), watch.scores)


def test_score(model: keras.Model, workload: Workload) -> float:
    x, y = workload.data().test
    scores = model.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
    return float(scores[workload.score.removeprefix("val_")])
