"""The optimizers here against Keras's, side by side: updates alone, first steps, whole `fit`.

    python benchmarks/optimizers.py [--parts loop fit resnet rules] [--rounds N]

CPU time of one thread, which other programs on the machine disturb little; the contestants take
turns, and a ratio is made in every round. Printed are the medians, with the smallest and the
largest ratio. Beside the updates stand their limits: TensorFlow's kernels without an optimizer
around them, one addition to each variable and nothing else, and what the memory allows; with torch
installed its fused optimizers, too. The parts: ten updates of a net of 100 layers in one call; fit;
ResNet50's variables; all rules. KERAS_BACKEND=jax compares on JAX, where XLA compiles both.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from kerastools import optimizers
from kerastools._core.table import format_table

MLP = [(64, 64), (64,)] * 100
PARTS = ["loop", "fit", "resnet", "rules"]
PAIRS = {
    "Adam": (lambda: keras.optimizers.Adam(), lambda: optimizers.Adam()),
    "Adam, ε inside the root": (
        lambda: keras.optimizers.Adam(),
        lambda: optimizers.Adam(epsilon=1e-14, epsilon_mode="inside"),
    ),
    "AdamW": (lambda: keras.optimizers.AdamW(), lambda: optimizers.AdamW()),
    "SGD, momentum": (
        lambda: keras.optimizers.SGD(0.01, 0.9),
        lambda: optimizers.SGD(0.01, 0.9),
    ),
    "SGD, Nesterov's": (
        lambda: keras.optimizers.SGD(0.01, 0.9, nesterov=True),
        lambda: optimizers.SGD(0.01, 0.9, nesterov=True),
    ),
    "SGD, exact Nesterov": (
        lambda: keras.optimizers.SGD(0.01, 0.9, nesterov=True),
        lambda: optimizers.SGD(0.01, 0.9, nesterov="exact"),
    ),
    "Nadam": (lambda: keras.optimizers.Nadam(), lambda: optimizers.Nadam()),
    "Adamax": (lambda: keras.optimizers.Adamax(), lambda: optimizers.Adamax()),
    "RMSprop": (lambda: keras.optimizers.RMSprop(), lambda: optimizers.RMSprop()),
    "Adagrad": (lambda: keras.optimizers.Adagrad(), lambda: optimizers.Adagrad()),
    "Schedule-Free": (
        lambda: keras.optimizers.ScheduleFreeAdamW(),
        lambda: optimizers.ScheduleFreeAdamW(),
    ),
}


def resnet50() -> list[tuple[int, ...]]:
    model = keras.applications.ResNet50(weights=None)
    return [tuple(v.shape) for v in model.trainable_variables]


class Update:
    """An optimizer with variables of given shapes and one set of gradients."""

    def __init__(self, make: Callable, shapes: list[tuple[int, ...]], loops: int = 1) -> None:
        self.loops = loops
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
        self.variables = [keras.Variable(a) for a in arrays]
        self.gradients = [keras.ops.convert_to_tensor(0.01 * a) for a in arrays]
        self.optimizer = make()
        self.optimizer.build(self.variables)
        start = time.process_time()
        self.step = self._compiled()
        self.step()
        self.step()
        self.first = time.process_time() - start

    def _compiled(self) -> Callable[[], object]:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            @tf.function
            def function(gradients: list) -> None:
                for _ in tf.range(self.loops) if self.loops > 1 else (0,):
                    self.optimizer.apply(gradients, self.variables)

            traced = function.get_concrete_function(self.gradients)
            operations = traced.graph.get_operations()
            self.nodes = sum(op.type != "Placeholder" for op in operations)
            return lambda: function(self.gradients)
        import jax

        pure = jax.jit(self.optimizer.stateless_apply, donate_argnums=(0, 2))
        self.nodes = 0
        self.state = [v.value + 0 for v in self.optimizer.variables]
        self.weights = [v.value + 0 for v in self.variables]

        def step() -> None:
            self.weights, self.state = pure(self.state, self.gradients, self.weights)
            jax.block_until_ready(self.weights)

        return step


class BareUpdate:
    """The least that TensorFlow can be asked to do, without an optimizer around it."""

    def __init__(self, rule: str, shapes: list[tuple[int, ...]], loops: int) -> None:
        import tensorflow as tf

        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
        weights, m, v = ([tf.Variable(k * a) for a in arrays] for k in (1, 0, 0))
        gradients = [tf.constant(0.01 * a) for a in arrays]
        raw = tf.raw_ops

        def update(i: int, g: object) -> None:
            theta = weights[i].handle
            if rule == "addition":
                raw.AssignAddVariableOp(resource=theta, value=g)
            elif rule == "momentum":
                numbers = {"lr": 0.01, "momentum": 0.9, "grad": g}
                raw.ResourceApplyKerasMomentum(var=theta, accum=m[i].handle, **numbers)
            else:
                numbers = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "grad": g}
                numbers |= {"beta1_power": 0.0, "beta2_power": 0.0}
                raw.ResourceApplyAdam(var=theta, m=m[i].handle, v=v[i].handle, **numbers)

        @tf.function
        def function(gradients: list) -> None:
            for _ in tf.range(loops) if loops > 1 else (0,):
                for i, g in enumerate(gradients):
                    update(i, g)

        self.step = lambda: function(gradients)
        self.step()


class TorchUpdate:
    """The same with torch's fused optimizers."""

    def __init__(self, rule: str, shapes: list[tuple[int, ...]], loops: int) -> None:
        import torch

        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        weights = [
            torch.tensor(rng.normal(size=s).astype("float32"), requires_grad=True) for s in shapes
        ]
        for weight in weights:
            weight.grad = 0.01 * weight.detach()
        optimizer = {
            "Adam": lambda: torch.optim.Adam(weights, fused=True),
            "momentum": lambda: torch.optim.SGD(weights, 0.01, 0.9, fused=True),
        }[rule]()

        def step() -> None:
            for _ in range(loops):
                optimizer.step()

        self.step = step
        self.step()


def mlp(optimizer: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, "relu", kernel_initializer="he_normal") for _ in range(99)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(64)])
    model.compile(optimizer, "mse")
    return model


def convolutions(optimizer: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(32, 3, activation="relu") for _ in range(3)]
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.compile(optimizer, "mse")
    return model


def cpu_seconds(function: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - start) / times


def in_turn(contestants: list[Callable], rounds: int, times: int) -> list[list[float]]:
    """Returns the CPU time of one call of each contestant in each round."""
    measured: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, seconds in zip(contestants, measured, strict=True):
            seconds.append(cpu_seconds(contestant, times))
    return measured


def ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def bandwidth() -> float:
    """Returns the bytes per second that one thread moves in a ← b + c on large arrays."""
    a, b, c = (np.ones(2**24, "float32") for _ in range(3))
    seconds = [cpu_seconds(lambda: np.add(b, c, out=a), 1) for _ in range(5)]
    return 3 * a.nbytes / statistics.median(seconds)


def updates(
    name: str, shapes: list[tuple[int, ...]], pairs: dict, rounds: int, loops: int = 1
) -> None:
    how = f"{loops} in one call" if loops > 1 else "one in a call"
    rows = []
    for rule, (make_keras, make_ours) in pairs.items():
        theirs, ours = (Update(make, shapes, loops) for make in (make_keras, make_ours))
        slow, fast = in_turn([theirs.step, ours.step], rounds, 2)
        rows.append(
            (
                rule,
                1e3 * statistics.median(slow) / loops,
                1e3 * statistics.median(fast) / loops,
                ratio(fast, slow),
                f"{ours.first / theirs.first:.2f}",
                ours.nodes / len(shapes) if ours.nodes and loops == 1 else "",
            )
        )
    numbers = sum(int(np.prod(shape)) for shape in shapes)
    print(f"\nUpdate of {name}: {len(shapes)} variables, {numbers:,} weights; {how}")
    headers = ["rule", "Keras ms", "here ms", "here / Keras", "first two calls", "nodes/variable"]
    print(format_table(headers, rows))
    if keras.backend.backend() == "tensorflow":
        limits(shapes, rounds, loops)


def limits(shapes: list[tuple[int, ...]], rounds: int, loops: int) -> None:
    """Prints what an update costs without an optimizer around it, and in torch."""
    steps = {
        "Keras's Adam": Update(PAIRS["Adam"][0], shapes, loops).step,
        "Keras's SGD, momentum": Update(PAIRS["SGD, momentum"][0], shapes, loops).step,
        "Adam here": Update(PAIRS["Adam"][1], shapes, loops).step,
        "SGD, momentum here": Update(PAIRS["SGD, momentum"][1], shapes, loops).step,
        "TensorFlow's kernel for Adam, bare": BareUpdate("Adam", shapes, loops).step,
        "TensorFlow's kernel for momentum, bare": BareUpdate("momentum", shapes, loops).step,
        "one addition to each variable": BareUpdate("addition", shapes, loops).step,
    }
    try:
        steps["torch's fused Adam"] = TorchUpdate("Adam", shapes, loops).step
        steps["torch's fused SGD, momentum"] = TorchUpdate("momentum", shapes, loops).step
    except ImportError:
        print("torch is not installed: its fused optimizers are left out.")
    measured = in_turn(list(steps.values()), rounds, 2)
    adam, sgd = measured[:2]
    rows = [
        (name, 1e3 * statistics.median(m) / loops, ratio(m, adam), ratio(m, sgd))
        for name, m in zip(steps, measured, strict=True)
    ]
    # Adam reads four arrays of the weights' size and writes three, momentum three and two.
    bytes_each = 4 * sum(int(np.prod(shape)) for shape in shapes)
    speed = bandwidth()
    for name, streams in (("Adam", 7), ("momentum", 5)):
        seconds = streams * bytes_each / speed
        parts = [f"{seconds * loops / statistics.median(m):.2f}" for m in (adam, sgd)]
        rows.append((f"what the memory allows {name}", 1e3 * seconds, *parts))
    print(format_table(["beside them", "ms", "of Keras's Adam", "of Keras's SGD"], rows))


def whole_fit(rounds: int) -> None:
    rows = []
    for name, net, shape, steps in (
        ("100 layers of 64", mlp, (64,), 40),
        ("3 convolutions of 32", convolutions, (28, 28, 1), 10),
    ):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(32 * steps, *shape)).astype("float32")
        y = rng.normal(size=(32 * steps, net("sgd").output_shape[-1])).astype("float32")
        models = [net(keras.optimizers.Adam()), net(optimizers.Adam())]
        first = []
        for model in models:
            few = (x[:64], y[:64])
            first.append(cpu_seconds(lambda m=model, d=few: m.fit(*d, verbose=0), 1))
        fits = [lambda m=model, d=(x, y): m.fit(*d, verbose=0) for model in models]
        slow, fast = in_turn(fits, rounds, 1)
        row = [1e3 * statistics.median(seconds) / steps for seconds in (slow, fast)]
        rows.append((name, *row, ratio(slow, fast), f"{first[0] / first[1]:.2f}"))
    print("\nWhole step of fit, batch 32, Adam")
    headers = ["net", "Keras ms", "here ms", "faster by", "trace and two steps faster by"]
    print(format_table(headers, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--rounds", type=int, default=9, help="how often the contestants take turns"
    )
    arguments = parser.parse_args()
    parts, rounds = arguments.parts, arguments.rounds
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, CPU time")
    few = {name: PAIRS[name] for name in ("Adam", "SGD, momentum")}
    if "loop" in parts and keras.backend.backend() == "tensorflow":
        updates("100 dense layers of 64", MLP, few, rounds, loops=10)
    if "fit" in parts:
        whole_fit(rounds)
    if "resnet" in parts:
        updates("ResNet50", resnet50(), few, rounds)
    if "rules" in parts:
        updates("100 dense layers of 64", MLP, PAIRS, rounds)


if __name__ == "__main__":
    main()
