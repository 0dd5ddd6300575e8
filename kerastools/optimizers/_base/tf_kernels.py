"""TensorFlow's own update kernels: one pass over the memory in place of one per operation."""

from typing import Any

import keras

from kerastools._core.keras_private.optimizer_hooks import compiles_with_xla, is_distributed


def available() -> bool:
    """Returns whether the step that runs or is traced now may use the kernels.

    Not under XLA, which fuses plain operations better, and not under `tf.distribute`.
    """
    return (
        keras.backend.backend() == "tensorflow" and not is_distributed() and not compiles_with_xla()
    )


def momentum(theta: Any, d: Any, g: Any, eta: Any, gamma: Any, nesterov: bool) -> None:
    """Momentum: d ← γd − ηg; θ ← θ + d, or θ + γd − ηg with `nesterov`."""
    _raw().ResourceApplyKerasMomentum(
        var=_handle(theta),
        accum=_handle(d),
        lr=eta,
        grad=g,
        momentum=gamma,
        use_nesterov=nesterov,
    )


def adam(
    theta: Any,
    m: Any,
    v: Any,
    largest: Any = None,
    *,
    g: Any,
    n: Any,
    nesterov: bool = False,
) -> None:
    """Adam: m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; θ ← θ − αm / (√v + ε).

    With `nesterov`, β₁m + (1 − β₁)g in place of m; with `largest`, the largest v so far. The
    corrections of the bias are in n.alpha, where no power of a rounded β loses them.
    """
    arguments = {
        "var": _handle(theta),
        "m": _handle(m),
        "v": _handle(v),
        "lr": n.alpha,
        "beta1": n.beta_1.beta,
        "beta2": n.beta_2.beta,
        "beta1_power": n.zero,
        "beta2_power": n.zero,
        "epsilon": n.epsilon,
        "grad": g,
    }
    if largest is None:
        _raw().ResourceApplyAdam(**arguments, use_nesterov=nesterov)
    else:
        _raw().ResourceApplyAdamWithAmsgrad(**arguments, vhat=_handle(largest))


def adamax(theta: Any, m: Any, u: Any, *, g: Any, n: Any) -> None:
    """Adamax: m ← β₁m + (1 − β₁)g; u ← max(β₂u, |g|); θ ← θ − αm / (u + ε)."""
    _raw().ResourceApplyAdaMax(
        var=_handle(theta),
        m=_handle(m),
        v=_handle(u),
        beta1_power=n.zero,
        lr=n.alpha,
        beta1=n.beta_1.beta,
        beta2=n.beta_2.beta,
        epsilon=n.epsilon,
        grad=g,
    )


def rmsprop(theta: Any, square: Any, v: Any, *, g: Any, n: Any) -> None:
    """RMSprop: G ← ρG + (1 − ρ)g²; v ← γv + ηg / √(G + ε); θ ← θ − v."""
    _raw().ResourceApplyRMSProp(
        var=_handle(theta),
        ms=_handle(square),
        mom=_handle(v),
        lr=n.learning_rate,
        rho=n.rho.beta,
        momentum=n.momentum,
        epsilon=n.epsilon,
        grad=g,
    )


def subtract(v: Any, number: Any, x: Any) -> None:
    """Subtracts a multiple of a tensor: v ← v − number · x, in place."""
    _raw().ResourceApplyGradientDescent(var=_handle(v), alpha=number, delta=x)


def summed_rows(gradient: Any) -> tuple[Any, Any]:
    """Returns which rows a sparse gradient has, each once, and the gradient of each."""
    import tensorflow as tf

    rows, places = tf.unique(gradient.indices)
    return rows, tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))


def take_rows(variable: Any, rows: Any) -> Any:
    """Returns some rows of a variable."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return _raw().ResourceGather(resource=_handle(variable), indices=rows, dtype=dtype)


def put_rows(variable: Any, rows: Any, values: Any) -> None:
    """Assigns some rows of a variable, in place."""
    _raw().ResourceScatterUpdate(resource=_handle(variable), indices=rows, updates=values)


def subtract_rows(variable: Any, rows: Any, values: Any) -> None:
    """Subtracts from some rows of a variable, in place."""
    _raw().ResourceScatterSub(resource=_handle(variable), indices=rows, updates=values)


def _raw() -> Any:
    import tensorflow as tf

    return tf.raw_ops


def _handle(variable: Any) -> Any:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
