"""Changes of a model's structure that mend what was found."""

from dataclasses import dataclass, field, replace
from typing import Any

import keras
from keras import tree

from kerastools._core.graph.activations import activation_name, is_activation, own_activation
from kerastools._core.graph.calls import Call, input_layer_of, read_graph
from kerastools._core.graph.kinds import is_kind, unwrapped
from kerastools._core.graph.rebuild import layer_from_config, rebuild
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._replacements import (
    mended_constraints,
    normalizations,
    scaled_regularizers,
)
from kerastools.diagnosis._subject import Subject

_NAME = "repair"
_SIGMOIDS = ("sigmoid", "hard_sigmoid")
_USUAL_RATE = 0.3
STRUCTURAL = (
    "inputs not normalised",
    "labels",
    "output activation",
    "dropout on the output",
    "dropout rate",
    "constraint on the wrong axis",
    "regularizer too strong",
    "linear layers in a row",
    "saturated",
    "vanishing gradient",
)


@dataclass
class Structure:
    """What is to be changed, by the path of the layer.

    Attributes:
        standardise: The normalisation of each input that is to have one, by name.
        outputs: The activation that an output layer is to have.
        scales: Standard deviation and mean that an output is to be brought to.
        activations: The activation that a hidden layer is to have.
        penalties: By how much the regularizers of a layer are to be multiplied.
        rates: New dropout rates; 0 takes the layer out.
        constraints: Layers whose norm constraints get the right axes.
        standardised: The inputs behind their normalisation, as far as they were built.
    """

    standardise: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)
    penalties: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    constraints: set[str] = field(default_factory=set)
    standardised: dict[str, Any] = field(default_factory=dict)

    def rebuilt(self, model: Any) -> Any:
        """Returns a new model with the changes made."""
        return rebuild(model, _NAME, self._change, self._connect)

    def _change(self, path: str, layer: Any) -> tuple[Any, bool] | None:
        config: dict[str, Any] = {}
        if path in self.outputs and not is_activation(layer) and hasattr(layer, "activation"):
            config["activation"] = self.outputs[path]
        elif path in self.outputs and is_activation(layer):
            return keras.layers.Activation(self.outputs[path], name=layer.name), False
        elif path in self.activations:
            config["activation"] = self.activations[path]
        if self.rates.get(path):
            config["rate"] = self.rates[path]
        if path in self.constraints:
            config.update(mended_constraints(layer))
        if path in self.penalties:
            config.update(scaled_regularizers(layer, self.penalties[path]))
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


def restructured(finding: Finding, subject: Subject) -> tuple[Subject, str]:
    """Returns the subject with what fixes one finding, and says what it is; empty if nothing is."""
    structure = Structure()
    changes, what = _plan(finding, subject, structure)
    if what and structure != Structure():
        model = structure.rebuilt(subject.model)
        changes = {"model": model, "loss": changes.get("loss", subject.loss).of(model)}
    return replace(subject, **changes), what


def _plan(finding: Finding, subject: Subject, structure: Structure) -> tuple[dict[str, Any], str]:
    """Enters what fixes one finding into `structure`; returns other changes, and what it is."""
    path, remedy = finding.layer, finding.remedy
    if finding.rule == "inputs not normalised":
        structure.standardise = normalizations(subject, finding.guilty)
        return {}, "Normalization, adapted to x, behind the input" if structure.standardise else ""
    if finding.rule == "output activation" and remedy is not None:
        return _output(path, remedy, subject, structure)
    if finding.rule == "labels" and isinstance(remedy, str):
        return {}, remedy  # The subject holds the targets and the loss as they were read.
    if finding.rule == "labels" and remedy is not None:
        # The gradient is that of targets of variance 1, and predictions are in the unit of y.
        place, scale, mean, power = remedy
        structure.scales[path] = (scale, mean)
        weights = subject.loss.weights
        weights[place] /= scale**power
        what = (
            f"output and loss scaled: Rescaling by the deviation of y, weight {weights[place]:.3g}"
        )
        return {"loss": subject.loss.with_weights(weights)}, what
    if finding.rule == "dropout on the output":
        structure.rates[path] = 0.0
        return {}, "dropout taken out"
    if finding.rule == "dropout rate":
        structure.rates.setdefault(path, _USUAL_RATE)
        return {}, f"rate {_USUAL_RATE}"
    if finding.rule == "constraint on the wrong axis":
        structure.constraints.add(path)
        return {}, "norm along the incoming weights of each unit"
    if finding.rule == "regularizer too strong":
        structure.penalties = dict.fromkeys(finding.guilty, remedy)
        return {}, f"regularizers {remedy:.2g} times as strong"
    if finding.rule == "linear layers in a row":
        structure.activations = dict.fromkeys(finding.guilty, "relu")
        return {}, "relu between linear layers"
    if remedy == "relu":
        structure.activations = dict.fromkeys(hidden_sigmoids(subject.model), "relu")
        what = "logistic activations of hidden layers replaced by relu"
        return {}, what if structure.activations else ""
    return {}, ""


def _output(
    path: str, remedy: Any, subject: Subject, structure: Structure
) -> tuple[dict[str, Any], str]:
    """Enters another activation of an output, linear layers before it, and another loss."""
    if isinstance(remedy, str):
        structure.outputs[path] = remedy
        return {}, f'output activation "{remedy}"'
    place, activation, loss, linear = remedy
    structure.outputs[path] = activation
    structure.outputs.update(dict.fromkeys(linear, "linear"))
    what = f'output activation "{activation}"'
    if loss is None:
        return {}, what
    parts = list(subject.loss.parts)
    parts[place] = keras.losses.get(loss)
    return {"loss": subject.loss.with_parts(parts)}, f'{what}, loss "{loss}"'


def hidden_sigmoids(model: Any) -> set[str]:
    """Returns the paths of logistic layers whose every output goes to kernels, and nowhere else.

    Gates, which are multiplied with something, and outputs are meant to be logistic, and so is
    what a layer of an unknown class takes; frozen layers stay as they are.
    """
    graph = read_graph(model, _NAME).entered()
    open_ends = {id(t) for t in graph.outputs}
    verdicts: dict[str, bool] = {}
    for call in reversed(graph.calls):
        layer = unwrapped(call.operation)
        ends = any(id(t) in open_ends for t in call.outputs)
        if is_hidden_sigmoid(layer):
            verdicts[call.path] = verdicts.get(call.path, True) and not ends
        if is_kind(layer, "kernel", "recurrent"):
            continue
        passes = len(call.data) == 1 and is_kind(
            layer, "activation", "dropout", "normalization", "reshape", "pooling", "resize", "noise"
        )
        if ends or not (passes or is_kind(layer, "concatenate")):
            open_ends.update(id(t) for t in call.data)
    return {path for path, is_hidden in verdicts.items() if is_hidden}


def is_hidden_sigmoid(layer: Any) -> bool:
    """Dense layers, convolutions, activations by themselves; not recurrent ones."""
    return (
        activation_name(own_activation(layer)) in _SIGMOIDS
        and is_kind(layer, "kernel", "activation")
        and "activation" in getattr(layer, "get_config", dict)()
        and (layer.trainable or not layer.weights)
    )
