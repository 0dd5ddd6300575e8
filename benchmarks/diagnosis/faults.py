"""The faults of the bench: each spoils a sound case in one way, and names the rules that fit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kerastools.calibration import initialize


@dataclass
class Case:
    """A net, its data, and how it is going to be trained."""

    net: str
    seed: int
    data: Any
    options: Any
    make: Callable
    rate: float = 3e-3
    batch_size: int = 64
    spoil: Callable[[keras.Model], None] | None = None
    drawn_by_keras: bool = False
    model: Any = field(default=None)

    def build(self) -> None:
        """Makes the model; sound weights are drawn by `initialize`."""
        keras.utils.set_random_seed(self.seed)
        self.model = self.make(self.data, self.options)
        if not self.drawn_by_keras:
            initialize(self.model, seed=self.seed)
        if self.spoil:
            self.spoil(self.model)
        self.model.compile(keras.optimizers.Adam(self.rate), self.data.loss)


def kernels(model: keras.Model) -> list[Any]:
    """Returns the hidden kernels."""
    return [v for v in model.trainable_variables if v.name.endswith("kernel")][:-1]


def _inputs(scale: float, offset: float) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        def change(x: np.ndarray) -> np.ndarray:
            return np.float32(scale) * x + np.float32(offset)

        for name in ("x", "x_test"):
            setattr(case.data, name, keras.tree.map_structure(change, getattr(case.data, name)))

    return fault


def _scaled(factor: float) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        def spoil(model: keras.Model) -> None:
            for kernel in kernels(model):
                kernel.assign(kernel * factor)

        case.spoil = spoil

    return fault


def _standard_normal(case: Case) -> None:
    def spoil(model: keras.Model) -> None:
        rng = np.random.default_rng(case.seed)
        for kernel in kernels(model):
            kernel.assign(rng.normal(size=tuple(kernel.shape)).astype("float32"))

    case.spoil = spoil


def _nan(case: Case) -> None:
    def spoil(model: keras.Model) -> None:
        kernel = kernels(model)[len(kernels(model)) // 2]
        values = np.array(keras.ops.convert_to_numpy(kernel))
        values.flat[case.seed % values.size] = np.nan
        kernel.assign(values)

    case.spoil = spoil


def _equal_units(case: Case) -> None:
    case.options.kernel = keras.initializers.Constant(0.05)
    case.drawn_by_keras = True


def _one_seed(case: Case) -> None:
    case.options.kernel = keras.initializers.HeNormal(seed=case.seed)
    case.drawn_by_keras = True


def _dead(case: Case) -> None:
    case.options.bias = keras.initializers.Constant(-6.0)


def _sigmoid(case: Case) -> None:
    case.options.activation = "sigmoid"


def _no_output_activation(case: Case) -> None:
    case.options.output = None


def _two_activations(case: Case) -> None:
    losses = keras.losses
    case.data.loss = {
        "sparse_categorical_crossentropy": losses.SparseCategoricalCrossentropy(from_logits=True),
        "binary_crossentropy": losses.BinaryCrossentropy(from_logits=True),
    }[case.data.loss]


def _bounded_output(case: Case) -> None:
    case.options.output = "sigmoid"


def _huge_targets(case: Case) -> None:
    case.data.y, case.data.y_test = (3000 * y + 20_000 for y in (case.data.y, case.data.y_test))


def _labels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.data.y = change(case.data.y)

    return fault


def _one_hot(case: Case) -> None:
    case.data.y = np.eye(case.data.units)[case.data.y]


def _categorical(case: Case) -> None:
    case.data.loss = "categorical_crossentropy"


def _contradictory(case: Case) -> None:
    case.data.x = np.concatenate([case.data.x, case.data.x])
    case.data.y = np.concatenate([case.data.y, np.roll(case.data.y, 1)])


def _shuffled(case: Case) -> None:
    case.data.y = np.random.default_rng(case.seed).permutation(case.data.y)


def _rate(rate: float) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.rate = rate

    return fault


def _dropout(case: Case) -> None:
    case.options.dropout = 0.95


def _dropout_on_output(case: Case) -> None:
    case.options.dropout_on_output = 0.5


def _wrong_axis(case: Case) -> None:
    case.options.constraint_axis = 1


def _tiny_batch(case: Case) -> None:
    case.batch_size = 3


def _tiny_last_batch(case: Case) -> None:
    rows = len(case.data.x) // 64 * 64 - 61
    case.data.x, case.data.y = case.data.x[:rows], case.data.y[:rows]


SIGNAL = {"vanishing signal", "exploding signal", "wrong initialisation"}
WEIGHTS = SIGNAL | {"vanishing gradient", "exploding gradient", "saturated", "not finite"}
# Name: (what is done, traits of the nets it is done to, rules that name it).
FAULTS: dict[str, tuple[Callable[[Case], None], set[str], set[str]]] = {
    "raw inputs": (_inputs(80.0, 200.0), set(), {"inputs not normalised"}),
    "tiny inputs": (_inputs(1e-4, 0.0), set(), {"inputs not normalised"}),
    "N(0, 1) weights": (_standard_normal, {"plain"}, WEIGHTS),
    "weights 10 times too small": (_scaled(0.1), {"plain"}, SIGNAL),
    "zero weights": (_scaled(0.0), {"plain"}, {"identical weights", "dead units", *SIGNAL}),
    "equal units": (_equal_units, {"dense", "plain"}, {"identical weights"}),
    "one seed": (_one_seed, {"dense", "plain"}, {"identical weights"}),
    "NaN in a weight": (_nan, set(), {"not finite"}),
    "dead units": (_dead, {"relu"}, {"dead units"}),
    "deep sigmoid": (_sigmoid, {"deep"}, {"vanishing gradient", "saturated"}),
    "no output activation": (_no_output_activation, {"classes"}, {"output activation"}),
    "two output activations": (_two_activations, {"classes"}, {"output activation"}),
    "bounded regression": (_bounded_output, {"regression"}, {"output activation"}),
    "huge targets": (_huge_targets, {"regression"}, {"labels"}),
    "labels from 1": (_labels(lambda y: y + 1), {"sparse"}, {"labels"}),
    "labels by codes": (_labels(lambda y: 100 + 7 * y), {"sparse"}, {"labels"}),
    "labels -1 and 1": (_labels(lambda y: 2 * y - 1), {"binary"}, {"labels"}),
    "one-hot for a sparse loss": (_one_hot, {"sparse"}, {"labels"}),
    "numbers for a one-hot loss": (_categorical, {"sparse"}, {"labels"}),
    "learning rate 1": (_rate(1.0), set(), {"learning rate too large"}),
    "learning rate 1e-8": (_rate(1e-8), set(), {"update too small"}),
    "dropout 0.95": (_dropout, set(), {"dropout rate"}),
    "dropout on the output": (_dropout_on_output, set(), {"dropout on the output"}),
    "constraint axis": (_wrong_axis, {"plain"}, {"constraint on the wrong axis"}),
    "batch of 3": (_tiny_batch, {"norm"}, {"batch normalisation with a tiny batch"}),
    "last batch of 3": (
        _tiny_last_batch,
        {"norm"},
        {"batch normalisation with a tiny last batch"},
    ),
}
# What only the data can mend; the second is not looked for at all.
LOST: dict[str, tuple[Callable[[Case], None], set[str], set[str]]] = {
    "contradictory labels": (_contradictory, {"sparse", "single"}, {"labels"}),
    "labels in another order": (_shuffled, {"sparse"}, {"labels"}),
    "one class only": (_labels(lambda y: 0 * y), {"sparse"}, {"labels"}),
}
