"""The arguments that all optimizers share: their types, their texts, and the signatures they show.

Nothing of the package is imported here, so that the reference's generator can load this file.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

Number = float | Callable[..., Any]


class CommonArguments(TypedDict, total=False):
    """Keras's arguments in Keras's order, then those of this package."""

    weight_decay: Number | None
    clipnorm: Number | None
    clipvalue: Number | None
    global_clipnorm: Number | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None
    adaptive_clipnorm: Number | None
    skip_nonfinite: bool
    param_groups: Sequence[Any]


# What stands in the docstrings of the optimizers as {{key}}.
TEXTS = {
    "mutable": """\
Every hyperparameter is mutable: a number assigned to `optimizer.<name>` acts on the running `fit`
without tracing again. Each may be a function of the step (of updates, counted from 0) instead, or,
as in Keras, a function without arguments.""",
    "own_steps": """\
Each variable counts its own steps, so that one that joins late (a layer unfrozen) starts with steps
of η. Slots are float32 at least, whatever the type of the weights.""",
    "learning_rate": """\
learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`, or a
    function.""",
    "common_arguments": """\
weight_decay: λ of decoupled weight decay, θ ← θ − ηλθ at each step; `None` for none.
clipnorm: Each variable's gradient is scaled down to this norm where it is longer.
clipvalue: Gradients are clipped to [−c, c], element by element.
global_clipnorm: All gradients together are scaled down to this norm. Unlike in Keras, the clips can
    be combined; they act in the order value, norm, global norm, adaptive norm, under
    `tf.distribute` on the sum over replicas.
use_ema: Whether to keep an exponential moving average of the weights. It moves once per update,
    after the constraints; `kerastools.callbacks.EvaluationWeights` puts it into the model and out
    again.
ema_momentum: Decay rate of this average.
ema_overwrite_frequency: Number of updates after which the average overwrites the weights; `None`
    for never.
loss_scale_factor: The loss is multiplied by this factor, and the gradients are divided by it.
gradient_accumulation_steps: Number of steps whose mean gradient makes one update. Schedules, step
    counts and averages count updates. Not under `tf.distribute` with several replicas.
name: Name of the optimizer.
adaptive_clipnorm: Each unit's gradient is scaled down to this many times the norm of its weights
    (Brock et al. 2021; 0.01 there).
skip_nonfinite: Whether to skip a step in which a gradient is NaN or infinite: weights and slots
    stay as they are, `skipped_steps` counts it. With this or `global_clipnorm`, `gradient_norm`
    holds the norm of the last step and `clipped_steps` counts too.
param_groups: `ParamGroup`s, variables with hyperparameters of their own.""",
}


def with_texts(docstring: str) -> str:
    """Returns a docstring with each line {{key}} replaced by its text, indented alike."""
    return re.sub(
        r"^( *)\{\{(\w+)\}\}",
        lambda match: textwrap.indent(TEXTS[match[2]], match[1]),
        docstring,
        flags=re.MULTILINE,
    )


def show_common_arguments(cls: type, base: type) -> None:
    """Completes docstring and signature of `cls` by the arguments that it hands on to `base`.

    First Keras's arguments in Keras's order, which may be given by position, then ours.
    """
    cls.__doc__ = with_texts(cls.__doc__ or "")
    own, common = (_named(inspect.signature(c.__init__)) for c in (cls, base))  # type: ignore[misc]
    together = own | {name: p for name, p in common.items() if name not in own}
    parameters = sorted(together.values(), key=lambda parameter: parameter.kind)
    cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


def _named(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {name: p for name, p in signature.parameters.items() if p.kind not in several}
    return {name: p for name, p in named.items() if name != "self"}
