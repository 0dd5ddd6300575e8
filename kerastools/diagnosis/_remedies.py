"""Changes of a model's structure that mend what was found."""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.graph.activations import activation_name, is_activation, own_activation
from kerastools._core.graph.calls import Call, input_layer_of, read_graph
from kerastools._core.graph.fans import incoming_axes
from kerastools._core.graph.rebuild import layer_from_config, rebuild
from kerastools.constraints import MaxNorm
from kerastools.diagnosis._change import Change
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._subject import Subject

_NAME = "repair"
_SIGMOIDS = ("sigmoid", "hard_sigmoid")
_USUAL_RATE = 0.3


@dataclass
class Structure:
    """What is to be changed, by the path of the layer.

    Attributes:
        standardise: The normalisation of each input that is to have one, by name.
        outputs: The activation that an output layer is to have.
        scales: Standard deviation and mean that an output is to be brought to.
        hidden: Whether hidden logistic units become rectified.
        rates: New dropout rates; 0 takes the layer out.
        constraints: Layers whose norm constraints get the right axes.
        reset_biases: Whether biases begin at zero.
        standardised: The inputs behind their normalisation, as far as they were built.
    """

    standardise: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    hidden: bool = False
    rates: dict[str, float] = field(default_factory=dict)
    constraints: set[str] = field(default_factory=set)
    reset_biases: bool = False
    standardised: dict[str, Any] = field(default_factory=dict)

    @property
    def changes_figures(self) -> bool:
        """Whether the signals are others afterwards."""
        return bool(self.standardise or self.outputs or self.hidden or self.rates)

    def rebuilt(self, model: Any) -> Any:
        """Returns a new model with the changes made."""
        return rebuild(model, _NAME, self._change, self._connect)

    def _change(self, path: str, layer: Any) -> tuple[Any, bool] | None:
        config: dict[str, Any] = {}
        if path in self.outputs and not is_activation(layer) and hasattr(layer, "activation"):
            config["activation"] = self.outputs[path]
        elif path in self.outputs and is_activation(layer):
            return keras.layers.Activation(self.outputs[path], name=layer.name), False
        elif self.hidden and _is_hidden_sigmoid(layer):
            config["activation"] = "relu"
        if self.rates.get(path):
            config["rate"] = self.rates[path]
        if path in self.constraints:
            config.update(_mended_constraints(layer))
        if self.reset_biases and getattr(layer, "bias_initializer", None) is not None:
            config["bias_initializer"] = "zeros"
        return (layer_from_config(layer, config, _NAME), True) if config else None

    def _connect(self, call: Call, layer: Any, args: Any, kwargs: Any) -> Any:
        path = call.path
        if self.rates.get(path) == 0.0:
            return args[0]
        if "/" not in path and self.standardise:
            args, kwargs = tree.map_structure(self._standardised, (args, kwargs))
        outputs = layer(*args, **kwargs)
        if path in self.outputs and not isinstance(call.operation, keras.Layer):
            outputs = keras.layers.Activation(self.outputs[path])(args[0])
        elif path in self.outputs and not is_activation(layer) and not hasattr(layer, "activation"):
            outputs = keras.layers.Activation(self.outputs[path])(outputs)
        if path in self.scales:
            scale, offset = self.scales[path]
            outputs = keras.layers.Rescaling(scale, offset)(outputs)
        return outputs

    def _standardised(self, tensor: Any) -> Any:
        """Returns an input of the model behind its normalisation, other tensors as they are."""
        layer = input_layer_of(tensor)
        if layer is None or layer.name not in self.standardise:
            return tensor
        if layer.name not in self.standardised:
            self.standardised[layer.name] = self.standardise[layer.name](tensor)
        return self.standardised[layer.name]


def _is_hidden_sigmoid(layer: Any) -> bool:
    """Dense layers, convolutions, activations by themselves; gates are meant to be logistic."""
    return (
        activation_name(own_activation(layer)) in _SIGMOIDS
        and not hasattr(layer, "recurrent_activation")
        and "activation" in layer.get_config()
    )


def structure_of(findings: list[Finding], subject: Subject, changes: list[Change]) -> Structure:
    """Returns the changes of structure that mend `findings`, and tells them in `changes`."""
    structure = Structure()
    for finding in findings:
        what = _plan(finding, subject, structure)
        if what:
            changes.append(Change(finding.rule, finding.layer, what))
    return structure


def _plan(finding: Finding, subject: Subject, structure: Structure) -> str:
    """Enters what mends one finding into `structure`, and says what it is; empty if nothing is."""
    path, remedy = finding.layer, finding.remedy
    if finding.rule == "inputs not normalised":
        structure.standardise = _normalizations(subject)
        return "Normalization, adapted to x, behind the inputs"
    if finding.rule == "output activation" and remedy is not None:
        structure.outputs[path] = remedy
        return f'output activation "{remedy}"'
    if finding.rule == "labels" and isinstance(remedy, str):
        return remedy  # The subject holds the targets and the loss as they were read.
    if finding.rule == "labels" and remedy is not None:
        structure.scales[path] = remedy
        return "Rescaling behind the output, by standard deviation and mean of y"
    if finding.rule == "dropout on the output":
        structure.rates[path] = 0.0
        return "dropout taken out"
    if finding.rule == "dropout rate":
        structure.rates.setdefault(path, _USUAL_RATE)
        return f"rate {_USUAL_RATE}"
    if finding.rule == "constraint on the wrong axis":
        structure.constraints.add(path)
        return "norm along the incoming weights of each unit"
    if remedy == "relu":
        structure.hidden = True
        return "logistic activations of hidden layers replaced by relu"
    return ""


def _normalizations(subject: Subject) -> dict[str, Any]:
    """Returns an adapted `Normalization` for each floating input that is no image of tokens."""
    graph = read_graph(subject.model, "repair")
    found = {}
    for layer, x in zip(graph.input_layers, graph.by_input(subject.x), strict=True):
        if x.dtype.kind != "f" and "int" in str(layer.dtype):
            continue
        # One mean and variance for all positions of an image or a sequence, channel by channel.
        x = x.astype("float64").reshape(-1, x.shape[-1]) if x.ndim > 1 else x.astype("float64")
        variance = x.var(axis=0)
        # A constant feature becomes 0.
        found[layer.name] = keras.layers.Normalization(
            axis=-1, mean=x.mean(axis=0), variance=np.where(variance > 0, variance, 1.0)
        )
    return found


def _mended_constraints(layer: Any) -> dict[str, Any]:
    """Returns the constraints of a layer's configuration, along each unit's incoming weights."""
    changes = {}
    for name, axes in incoming_axes(layer).items():
        for prefix in (name, name.removesuffix("_kernel"), "depthwise"):
            held = getattr(layer, f"{prefix}_constraint", None)
            if held is None:
                continue
            config = held.get_config()
            if "max_value" in config and "min_value" not in config:
                constraint = MaxNorm(config["max_value"], axes)
            else:
                constraint = type(held).from_config({**config, "axis": list(axes)})
            changes[f"{prefix}_constraint"] = keras.saving.serialize_keras_object(constraint)
            break
    return changes
