"""TensorFlow's own update kernels: one pass over the memory in place of one per operation."""

from typing import Any

import keras

from kerastools._core.keras_private.optimizer_hooks import is_distributed


def available() -> bool:
    """Returns whether the step that runs or is traced now may use the kernels.

    Not under XLA, which fuses plain operations better, and not under `tf.distribute`.
    """
    return (
        keras.backend.backend() == "tensorflow" and not is_distributed() and not compiles_with_xla()
    )


def compiles_with_xla() -> bool:
    """Returns whether TensorFlow is tracing for `jit_compile=True`.

    TensorFlow marks the graph with a control-flow context, which has no public name; the test
    beside this module's fails when it moves.
    """
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


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
    g: Any,
    alpha: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    zero: Any,
    nesterov: bool = False,
    largest: Any = None,
) -> None:
    """Adam: m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; θ ← θ − αm / (√v + ε).

    With `nesterov`, β₁m + (1 − β₁)g in place of m; with `largest`, the largest v so far.
    """
    numbers = {"lr": alpha, "beta1": beta_1, "beta2": beta_2, "epsilon": epsilon, "grad": g}
    # The corrections of the bias are in α, where no power of a rounded β loses them.
    numbers |= {"beta1_power": zero, "beta2_power": zero}
    slots = {"var": _handle(theta), "m": _handle(m), "v": _handle(v)}
    if largest is None:
        _raw().ResourceApplyAdam(**slots, **numbers, use_nesterov=nesterov)
    else:
        _raw().ResourceApplyAdamWithAmsgrad(**slots, **numbers, vhat=_handle(largest))


def adamax(
    theta: Any,
    m: Any,
    u: Any,
    g: Any,
    alpha: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    zero: Any,
) -> None:
    """Adamax: m ← β₁m + (1 − β₁)g; u ← max(β₂u, |g|); θ ← θ − αm / (u + ε)."""
    _raw().ResourceApplyAdaMax(
        var=_handle(theta),
        m=_handle(m),
        v=_handle(u),
        beta1_power=zero,
        lr=alpha,
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon,
        grad=g,
    )


def adagrad(theta: Any, total: Any, g: Any, eta: Any) -> None:
    """Adagrad: G ← G + g²; θ ← θ − ηg / √G."""
    _raw().ResourceApplyAdagrad(var=_handle(theta), accum=_handle(total), lr=eta, grad=g)


def rmsprop(
    theta: Any, square: Any, v: Any, g: Any, eta: Any, rho: Any, gamma: Any, epsilon: Any
) -> None:
    """RMSprop: G ← ρG + (1 − ρ)g²; v ← γv + ηg / √(G + ε); θ ← θ − v."""
    _raw().ResourceApplyRMSProp(
        var=_handle(theta),
        ms=_handle(square),
        mom=_handle(v),
        lr=eta,
        rho=rho,
        momentum=gamma,
        epsilon=epsilon,
        grad=g,
    )


def subtract(v: Any, number: Any, x: Any) -> None:
    """Subtracts a multiple of a tensor: v ← v − number · x, in place."""
    _raw().ResourceApplyGradientDescent(var=_handle(v), alpha=number, delta=x)


def _raw() -> Any:
    import tensorflow as tf

    return tf.raw_ops


def _handle(variable: Any) -> Any:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
