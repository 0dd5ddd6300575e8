"""What the search reads of a compiled model and Keras offers only underscored."""

from collections.abc import Callable
from typing import Any

from keras.src.utils.naming import reset_uids


def count_names_anew() -> None:
    """Lets the next layer, metric and optimizer be named as in a new process.

    Log names come from them: a second `AUC()` is `auc_1`. The public `clear_session()` does it
    too, but collects garbage for a third of a second and throws away TensorFlow's compiled kernels.
    """
    reset_uids()


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the arguments `model` was compiled with, the very objects, and its optimizer.

    `get_compile_config()` is public but serialises them: functions of the user's would be lost, and
    metrics would come back as others than those that the user holds.
    """
    # Under mixed_float16 the model's optimizer wraps the one that was passed.
    return dict(model._compile_config.config) | {"optimizer": model.optimizer}


def per_row_metric(metric: Any) -> Callable[..., Any] | None:
    """Returns the function whose mean over rows `metric` is, or `None` if it is no such mean."""
    function = getattr(metric, "_fn", None)
    if function is None:
        return None
    return lambda y_true, y_pred: function(y_true, y_pred, **metric._fn_kwargs)


def built_metrics(model: Any, y_true: Any, y_pred: Any) -> list[Any]:
    """Returns the metrics that `model` was compiled with, `"accuracy"` resolved by the shapes."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    if not compiled.built:
        compiled.build(y_true, y_pred)
    return list(compiled.metrics)
