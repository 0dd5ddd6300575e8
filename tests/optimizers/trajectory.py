"""Runs an optimizer and a slow NumPy reference over the same gradients, and compares all state."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

SHAPES = [(3, 4), (5,)]
STEPS = 200


# The way that costs the tests least.
FAST = "graph" if keras.backend.backend() == "tensorflow" else "jit"


def gradients(steps: int = STEPS, seed: int = 0) -> list[list[np.ndarray]]:
    """Random gradients, each step's on a scale of its own, 10^U(−6, 0)."""
    rng = np.random.default_rng(seed)
    scales = 10 ** rng.uniform(-6, 0, size=steps)
    # Rounded to float32, so that every precision is given the same numbers.
    return [
        [np.float64(np.float32(scale * rng.normal(size=shape))) for shape in SHAPES]
        for scale in scales
    ]


def start(seed: int = 1) -> list[np.ndarray]:
    """Where the weights begin."""
    rng = np.random.default_rng(seed)
    return [np.float64(np.float32(rng.normal(size=shape))) for shape in SHAPES]


def how_to_run() -> list[str]:
    """The ways in which this backend compiles an update; "eager" works on TensorFlow, too."""
    return ["graph", "xla"] if keras.backend.backend() == "tensorflow" else ["jit"]


def run(
    optimizer: keras.optimizers.Optimizer,
    all_gradients: list[list[np.ndarray]],
    how: str = FAST,
    dtype: str = "float32",
    before_step: Callable[[int], None] | None = None,
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Returns the weights and slots after one step per gradient."""
    weights = [keras.Variable(w, dtype=dtype, name=f"w{i}") for i, w in enumerate(start())]
    optimizer.build(weights)
    if how == "jit" and before_step is None:
        move_all(optimizer, weights, all_gradients)
    else:
        step = compiled(optimizer, weights, how)
        for t, gs in enumerate(all_gradients):
            if before_step is not None:
                before_step(t)
            step([ops.convert_to_tensor(g, dtype=dtype) for g in gs])
    slots = {
        name[1:].removesuffix("_slots"): list(map(ops.convert_to_numpy, each_slot(value)))
        for name, value in vars(optimizer).items()
        if name.endswith("_slots") and name not in ("_slots", "_scalar_slots")
    }
    return [ops.convert_to_numpy(w) for w in weights], slots


def move_all(
    optimizer: keras.optimizers.Optimizer,
    weights: list[keras.Variable],
    all_gradients: list[list[np.ndarray]],
) -> None:
    """Updates the weights by all gradients in one call; JAX only."""

    def step(values, state, gs):
        values, state = optimizer.stateless_apply(state, gs, values)
        return list(values), list(state)

    start = [w.value for w in weights], [v.value for v in optimizer.variables]
    values, state = in_one_call(step, *start, all_gradients)
    for variable, value in zip(weights + optimizer.variables, values + state, strict=True):
        variable.assign(value)


def each_slot(value) -> list:
    """Returns the slot of each variable; scalar slots lie in one vector."""
    return list(ops.convert_to_numpy(value)) if isinstance(value, keras.Variable) else value


def as_held(optimizer, beta: float, how: str = FAST) -> float:
    """Returns the β as the update has it: TensorFlow's kernels take it in float32."""
    kernel = how in ("graph", "eager") and optimizer._has_kernel()
    return float(np.float32(beta)) if kernel else beta


def compiled(
    optimizer: keras.optimizers.Optimizer, weights: list[keras.Variable], how: str
) -> Callable:
    """Returns a function of the gradients that updates the weights in the given way."""
    if how == "eager":
        return lambda gs: optimizer.apply(gs, weights)
    if how == "jit":
        import jax

        pure = jax.jit(optimizer.stateless_apply)

        def stateless(gs):
            values, state = pure(
                [v.value for v in optimizer.variables], gs, [w.value for w in weights]
            )
            for variable, value in zip(weights + optimizer.variables, values + state, strict=True):
                variable.assign(value)

        return stateless
    import tensorflow as tf

    return tf.function(lambda gs: optimizer.apply(gs, weights), jit_compile=how == "xla")


def reference(rule: Callable, all_gradients: list[list[np.ndarray]]) -> tuple[list, list[dict]]:
    """Returns weights and slots of `rule(theta, g, t, slots) -> theta`, which changes `slots`."""
    weights, slots = start(), [{} for _ in SHAPES]
    for t, gs in enumerate(all_gradients, start=1):
        weights = [rule(w, g, t, s) for w, g, s in zip(weights, gs, slots, strict=True)]
    return weights, slots


def error(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Returns the largest difference relative to the largest number of its variable.

    Element by element would ask for digits that cancelled: a mean of gradients passes through 0.
    """
    return max(
        float(np.max(np.abs(a - e)) / max(np.max(np.abs(e)), 1e-30))
        for a, e in zip(actual, expected, strict=True)
    )


def largest_error(got: tuple, want: tuple) -> float:
    """Returns the largest error of weights and every slot.

    What the reference keeps for itself has a name that begins with an underscore.
    """
    (weights, slots), (expected_weights, expected_slots) = got, want
    errors = [error(weights, expected_weights)]
    assert set(slots) == {name for name in expected_slots[0] if name[0] != "_"}
    for name, values in slots.items():
        errors.append(error(values, [s[name] for s in expected_slots]))
    return max(errors)


def optax_weights(twin, all_gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Returns the weights after one step of an optax optimizer per gradient."""
    import optax

    def step(weights, state, gs):
        updates, state = twin.update(gs, state, weights)
        return optax.apply_updates(weights, updates), state

    weights = [np.float32(w) for w in start()]
    weights, _ = in_one_call(step, weights, twin.init(weights), all_gradients)
    return [np.asarray(w) for w in weights]


def in_one_call(step: Callable, weights: list, state, all_gradients: list[list[np.ndarray]]):
    """Returns what JAX makes of `step(weights, state, gradients)` again and again."""
    import jax

    weights = [jax.numpy.asarray(w) for w in weights]
    every = [
        jax.numpy.stack(gs).astype(weights[0].dtype) for gs in zip(*all_gradients, strict=True)
    ]
    start = (weights, state)
    scanned = jax.jit(lambda c, gs: jax.lax.scan(lambda c, g: (step(*c, g), None), c, gs))
    return scanned(start, every)[0]
