"""Eligibility of searches, models and layers for population training."""

import inspect
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core.graph.calls import calls, has_graph, sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.data_adapters import split_validation
from kerastools._core.keras_private.graph_nodes import RECORDED_TRAINING_HOLDS
from kerastools._core.keras_private.optimizer_hooks import (
    is_distributed,
    learning_rate_source,
    strategy_scope,
)
from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, AdamW, Nadam, RAdam, RMSprop
from kerastools.search._reuse.penalties import PENALTY_ARGUMENTS
from kerastools.search._stacked.rules.elementwise import is_keras_function
from kerastools.search._stacked.stacked_layers import is_graph

_FIT_ARGUMENTS = {"x", "y", "validation_data", "batch_size", "epochs", "shuffle", "callbacks"}
# They read the logs of an epoch, and nothing of the model.
_CALLBACKS = (keras.callbacks.EarlyStopping, keras.callbacks.TerminateOnNaN)


def why_search_cannot_stack(
    tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Returns why a search trains one trial after the other, as text, or `None`."""
    if keras.backend.backend() not in ("tensorflow", "jax"):
        return f"the backend is {keras.backend.backend()}"
    if type(tuner.hypermodel).fit is not keras_tuner.HyperModel.fit:
        return "the hypermodel overrides fit"
    for name in ("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end", "run_trial"):
        if getattr(type(tuner), name) is not getattr(keras_tuner.Tuner, name) and not getattr(
            type(tuner), name
        ).__module__.startswith("kerastools."):
            return f"the tuner overrides {name}"
    if tuner.executions_per_trial != 1:
        return "executions_per_trial is not 1"
    if tuner.distribution_strategy is not None or _is_distributed():
        return "there is a distribution strategy"
    given = bound_fit_arguments(args, kwargs)
    if given is None:
        known = (*_FIT_ARGUMENTS, "validation_split", "verbose")
        other = [name for name, v in kwargs.items() if v is not None and name not in known]
        return f"search was given {', '.join(other) or 'more than x and y by position'}"
    for callback in given.get("callbacks", ()):
        if type(callback) not in _CALLBACKS:
            return f"the callback {type(callback).__name__} may read or change the model"
    validation = given.get("validation_data")
    arrays = [given.get("x"), given.get("y"), *(validation if validation is not None else ())]
    if len(arrays) not in (2, 4) or not all(isinstance(a, np.ndarray) for a in arrays):
        return "the data are not NumPy arrays x, y and validation_data=(x, y)"
    return None


def _is_distributed(model: Any = None) -> bool:
    """Returns whether a distribution is in force, or was where `model` was made."""
    if keras.backend.backend() != "tensorflow":
        return keras.distribution.distribution() is not None
    with strategy_scope(model):
        return is_distributed()


def bound_fit_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the arguments of `fit` by name; `None` if one of them is not supported.

    Of `validation_split` it makes `validation_data`, which Keras prefers where both are given.
    """
    given = dict(zip(("x", "y"), args, strict=False)) | {
        name: value for name, value in kwargs.items() if value is not None and name != "verbose"
    }
    split = given.pop("validation_split", 0)
    if len(args) > 2 or set(given) - _FIT_ARGUMENTS:
        return None
    arrays = (given.get("x"), given.get("y"))
    if split and "validation_data" not in given:
        if not all(isinstance(a, np.ndarray) for a in arrays):
            return None
        (given["x"], given["y"]), given["validation_data"] = split_validation(arrays, split)
    return given


def why_model_cannot_stack(model: Any) -> str | None:
    """Returns why `model` is trained alone, as text, or `None`."""
    if _is_distributed(model):
        return "it was made in the scope of a distribution strategy"
    if keras.backend.backend() == "jax":  # `jax.vmap` works for every model.
        if not model.built:
            return "the model is not built"
        return "compile was given run_eagerly" if model.run_eagerly else None
    if not (model.built and has_graph(model)):
        return "the model has no graph of layers, or a call of its own"
    if not is_graph(model):
        return f"the model is of class {type(model).__name__}"
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return "the model has several inputs or outputs"
    for call in calls(model):
        if RECORDED_TRAINING_HOLDS and call.argument("training") is not None:
            return f"layer {call.operation.name!r} is called with a training argument of its own"
        if (reason := why_layer_cannot_stack(call.operation)) is not None:
            return reason
    for variable in model.trainable_variables:
        for holder in (variable.regularizer, variable.constraint):
            if holder is not None and type(holder) not in _PENALTIES:
                return f"{variable.path} has a {type(holder).__name__}"
    return _why_compiled_cannot_stack(model)


_PENALTIES = (*PENALTY_ARGUMENTS, keras.constraints.NonNeg)


def _why_compiled_cannot_stack(model: Any) -> str | None:
    arguments = compile_arguments(model)
    if arguments["weighted_metrics"] or arguments["loss_weights"] or arguments["run_eagerly"]:
        return "compile was given weighted_metrics, loss_weights or run_eagerly"
    if not is_mean_over_rows(loss := arguments["loss"]):
        return f"the loss {getattr(loss, 'name', loss)!r} is not known to be a mean over rows"
    for metric in keras.tree.flatten(arguments["metrics"]):
        if metric is not None and not _is_mean_metric(metric):
            return f"the metric {getattr(metric, 'name', metric)!r} is not a mean over rows"
    return _why_optimizer_cannot_stack(model.optimizer)


# Classes, and functions of the same names in snake case.
_NAMES_OF_MEAN_LOSSES = (
    "BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy CategoricalHinge "
    "CategoricalFocalCrossentropy CategoricalGeneralizedCrossEntropy CosineSimilarity Hinge "
    "Huber KLDivergence LogCosh MeanAbsoluteError MeanAbsolutePercentageError Poisson "
    "MeanSquaredError MeanSquaredLogarithmicError SparseCategoricalCrossentropy SquaredHinge "
    "binary_crossentropy binary_focal_crossentropy categorical_crossentropy categorical_hinge "
    "categorical_focal_crossentropy categorical_generalized_cross_entropy cosine_similarity "
    "hinge huber kl_divergence log_cosh mean_absolute_error mean_absolute_percentage_error "
    "poisson mean_squared_error mean_squared_logarithmic_error sparse_categorical_crossentropy "
    "squared_hinge"
)
_MEAN_LOSSES = {getattr(keras.losses, name) for name in _NAMES_OF_MEAN_LOSSES.split()}


def is_mean_over_rows(loss: Any) -> bool:
    """Whether `loss`, as in compile(), is known to be a mean over rows, each by itself."""
    if isinstance(loss, str):
        if loss in ("crossentropy", "ce"):
            return False  # What it is depends on the shapes.
        loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return inspect.isfunction(loss) and loss in _MEAN_LOSSES
    ignores = loss.get_config().get("ignore_class") is not None
    mean = loss.reduction == "sum_over_batch_size"
    return type(loss) in _MEAN_LOSSES and mean and not ignores


def _is_mean_metric(metric: Any) -> bool:
    if metric in ("accuracy", "acc"):
        return True
    metric = keras.metrics.get(metric) if isinstance(metric, str) else metric
    if not isinstance(metric, keras.metrics.Metric):
        return inspect.isfunction(metric) and metric.__module__.startswith("keras.")
    stock = isinstance(metric, keras.metrics.MeanMetricWrapper) and _is_keras(type(metric))
    # The wrapper itself holds a function of the user's.
    own = type(metric) is keras.metrics.MeanMetricWrapper
    return stock and not own and metric.get_config().get("ignore_class") is None


def _is_keras(cls: type) -> bool:
    return cls.__module__.startswith("keras.")


_OPTIMIZERS = (SGD, Adagrad, Adam, AdamW, Adamax, Nadam, RAdam, RMSprop)


def _why_optimizer_cannot_stack(optimizer: Any) -> str | None:
    if type(optimizer) not in _OPTIMIZERS:
        library = type(optimizer).__module__.split(".")[0]
        return f"the optimizer is {library}'s {type(optimizer).__name__}"
    if getattr(optimizer, "nesterov", None) == "exact":
        return "exact Nesterov momentum evaluates at weights that are not its own"
    for option in ("skip_nonfinite", "use_ema", "gradient_accumulation_steps", "param_groups"):
        if getattr(optimizer, option, None):
            return f"the optimizer has {option}"
    for option in ("adaptive_clipnorm", "loss_scale_factor"):
        if getattr(optimizer, option, None) is not None:
            return f"the optimizer has {option}"
    held = {name: getattr(optimizer, d.attribute) for name, d in optimizer._declared().items()}
    held["learning_rate"] = learning_rate_source(optimizer)
    for name, source in held.items():
        if callable(source):
            return f"the optimizer's {name} is a function of the step"
    return None


_MASKS = "it masks time steps for the layers after it"


def why_layer_cannot_stack(layer: Any) -> str | None:
    """Returns why `layer` cannot be stacked, as text, or `None`; of a model, its layers say it."""
    if is_graph(layer):
        return None
    name = f"layer {layer.name!r}"
    if not type(layer).__module__.startswith(("keras.", "kerastools.")):
        return f"{name} is a {type(layer).__name__}, which is no layer of Keras or kerastools"
    if not isinstance(layer, keras.Layer):
        return None  # An operation of keras.ops.
    parts = sublayers(layer)
    if any(part.compute_dtype != "float32" or part.variable_dtype != "float32" for part in parts):
        return f"{name} computes in {layer.compute_dtype}"
    for part in parts:
        if getattr(part, "activity_regularizer", None) is not None:
            return f"{name} has an activity regularizer"
        if is_kind(part, "masking") or getattr(part, "mask_zero", False):
            return f"{name}: {_MASKS}"
        if getattr(part, "recurrent_dropout", 0) or (
            is_kind(part, "recurrent") and getattr(part, "dropout", 0)
        ):
            return f"{name} has dropout in its cell"
        if getattr(part, "stateful", False):
            return f"{name} is stateful"
        if not type(part).__module__.startswith(("keras.", "kerastools.")):
            return f"{name} has a {type(part).__name__}, which is no layer of Keras or kerastools"
    for attribute in ("activation", "recurrent_activation", "function"):
        function = getattr(layer, attribute, None)
        if function is not None and not is_keras_function(function):
            return f"{name} has an {attribute} that is not one of Keras"
    prepares = is_kind(layer, "preprocessing", "vocabulary") and layer.variables
    if prepares and not is_kind(layer, "feature_normalization"):
        return f"{name} is a {type(layer).__name__}, which prepares data"
    return None
