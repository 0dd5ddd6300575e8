"""When trials can be trained together, and doing it."""

from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core._hyperparameter import Hyperparameter
from kerastools._core._slots import learning_rate_source
from kerastools._core._stacked_keras import compile_arguments, graph_nodes
from kerastools.constraints import MaxNorm
from kerastools.optimizers import SGD, Adam
from kerastools.search._stacked_layers import why_layer_cannot_stack

_FIT_ARGUMENTS = {"x", "y", "validation_data", "batch_size", "epochs", "shuffle"}
# On CPUs, layers beyond this are bound by arithmetic: training them together gains nothing.
_MOST_WEIGHTS = 2_000_000


def why_search_cannot_stack(
    tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Returns what in the arguments of `search` asks for one model after the other, or `None`."""
    if keras.backend.backend() != "tensorflow":
        return f"the backend is {keras.backend.backend()}"
    if type(tuner.hypermodel).fit is not keras_tuner.HyperModel.fit:
        return "the hypermodel has a fit of its own"
    for name in ("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end", "run_trial"):
        if getattr(type(tuner), name) is not getattr(keras_tuner.Tuner, name) and not getattr(
            type(tuner), name
        ).__module__.startswith("kerastools."):
            return f"the tuner has {name} of its own"
    if tuner.executions_per_trial != 1:
        return "executions_per_trial is not 1"
    if tuner.distribution_strategy is not None:
        return "there is a distribution strategy"
    given = bound_fit_arguments(args, kwargs)
    if given is None:
        return f"search was given more than {', '.join(sorted(_FIT_ARGUMENTS))}"
    validation = given.get("validation_data")
    arrays = [given.get("x"), given.get("y"), *(validation if validation is not None else ())]
    if len(arrays) not in (2, 4) or not all(isinstance(a, np.ndarray) for a in arrays):
        return "the data are not NumPy arrays x, y and validation_data=(x, y)"
    return None


def bound_fit_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the arguments of `fit` by name; `None` if there are others than can be stacked."""
    given = dict(zip(("x", "y"), args, strict=False)) | {
        name: value for name, value in kwargs.items() if value is not None and name != "verbose"
    }
    if not given.get("callbacks", True):
        del given["callbacks"]
    if len(args) > 2 or set(given) - _FIT_ARGUMENTS:
        return None
    return given


def why_model_cannot_stack(model: Any) -> str | None:
    """Returns what in `model` asks for training it alone, or `None`."""
    graph = graph_nodes(model) if model.built else None
    if graph is None:
        return "the model has no graph of layers"
    if type(model) not in (keras.Model, keras.Sequential) and not type(model).__module__.startswith(
        "keras."
    ):
        return "the model is of a class of its own"
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return "the model has several inputs or outputs"
    for layer, arguments, _ in graph[0]:
        if (reason := why_layer_cannot_stack(layer)) is not None:
            return reason
        if any(not isinstance(argument, str) for argument in arguments):
            return f"layer {layer.name!r} takes more than one tensor"
    if model.losses:
        return "there are regularizers"
    for variable in model.trainable_variables:
        constraint = variable.constraint
        kernel_bound = isinstance(constraint, MaxNorm) and constraint.axis == "auto"
        if not (constraint is None or kernel_bound or _is_nonneg(constraint)):
            return f"{variable.path} has the constraint {type(constraint).__name__}"
    if model.count_params() > _MOST_WEIGHTS:
        return f"with {model.count_params()} weights, training together gains nothing"
    return _why_compiled_cannot_stack(model)


def _is_nonneg(constraint: Any) -> bool:
    return type(constraint) is keras.constraints.NonNeg


def _why_compiled_cannot_stack(model: Any) -> str | None:
    arguments = compile_arguments(model)
    if arguments["weighted_metrics"] or arguments["loss_weights"] or arguments["run_eagerly"]:
        return "compile was given weighted_metrics, loss_weights or run_eagerly"
    loss = arguments["loss"]
    if (isinstance(loss, str) and loss in ("crossentropy", "ce")) or isinstance(loss, list | dict):
        return f"the loss is {loss!r}"
    if isinstance(loss, keras.losses.Loss) and loss.reduction != "sum_over_batch_size":
        return f"the loss has reduction={loss.reduction!r}"
    module = (
        getattr(loss, "__module__", "keras")
        if not isinstance(loss, keras.losses.Loss)
        else (type(loss).__module__)
    )
    if not isinstance(loss, str) and not module.startswith("keras."):
        return "the loss is a function of its own"
    for metric in keras.tree.flatten(arguments["metrics"]):
        stock = isinstance(metric, str) and not isinstance(_metric(metric), keras.metrics.Metric)
        if metric is not None and not (stock or isinstance(_metric(metric), _MEANS)):
            return f"the metric {getattr(metric, 'name', metric)!r} is no mean over rows"
    return _why_optimizer_cannot_stack(model.optimizer)


_MEANS = keras.metrics.MeanMetricWrapper


def _metric(metric: Any) -> Any:
    if metric in ("accuracy", "acc"):
        return keras.metrics.CategoricalAccuracy()
    return keras.metrics.get(metric) if isinstance(metric, str) else metric


def _why_optimizer_cannot_stack(optimizer: Any) -> str | None:
    name = type(optimizer).__name__
    if type(optimizer) not in (SGD, Adam):
        return f"the optimizer is {type(optimizer).__module__.split('.')[0]}'s {name}"
    if getattr(optimizer, "nesterov", None) == "exact":
        return "exact Nesterov momentum evaluates at other weights"
    for option in ("skip_nonfinite", "use_ema", "gradient_accumulation_steps", "param_groups"):
        if getattr(optimizer, option, None):
            return f"the optimizer has {option}"
    for option in ("global_clipnorm", "adaptive_clipnorm", "loss_scale_factor"):
        if getattr(optimizer, option, None) is not None:
            return f"the optimizer has {option}"
    held = {name: getattr(optimizer, d.attribute) for name, d in declared(optimizer).items()}
    held["learning_rate"] = learning_rate_source(optimizer)
    for name, source in held.items():
        if callable(source):
            return f"the optimizer's {name} is a function of the step"
    return None


def declared(optimizer: Any) -> dict[str, Hyperparameter]:
    """Returns the numbers that the class of `optimizer` declares, by name."""
    return {
        name: attribute
        for cls in reversed(type(optimizer).__mro__)
        for name, attribute in vars(cls).items()
        if isinstance(attribute, Hyperparameter)
    }
