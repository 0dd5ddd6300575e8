"""What a model computes, which all that is made of it must compute too."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kerastools._core.sample_inputs import find_sample
from kerastools.export._comparison import (
    Arrays,
    as_arrays,
    compiled,
    default_tolerance,
    largest_difference,
    without_last_activations,
)
from kerastools.export._endpoint import endpoint_of


class Reference:
    """A model, inputs on which it works and what it returns for them.

    Attributes:
        model: The model; its state is what it was.
        endpoint: How it is called.
        arguments: The inputs.
        dtypes: Of its outputs.

    Args:
        model: A built model.
        sample: Inputs to use, or `None` for random ones.
        caller: Named in messages of errors.
    """

    def __init__(self, model: Any, sample: Any, caller: str) -> None:
        self.model = model
        self.endpoint = endpoint_of(model, sample, caller)
        self._call = compiled(model)
        # One argument is what the model takes; several are those of a subclass's own call().
        single = len(self.endpoint.arguments) == 1
        specs = self.endpoint.arguments[0] if single else self.endpoint.arguments
        inputs, outputs = find_sample(
            lambda inputs: self._call([inputs] if single else inputs),
            specs,
            sample,
            caller,
            self.endpoint.graph,
        )
        self.arguments = [inputs] if single else inputs
        flat = keras.tree.flatten(outputs)
        self.dtypes = [keras.backend.standardize_dtype(y.dtype) for y in flat]
        self._outputs = outputs

    def name_outputs(self, names: Sequence[str] | None, caller: str) -> None:
        """Gives the outputs names of the user's."""
        if names is None:
            return
        if len({*names}) != len(self.dtypes) or len(names) != len(self.dtypes):
            raise ValueError(
                f"{caller} needs output_names to hold {len(self.dtypes)} different names, one for "
                f"each output. Received output_names={list(names)}."
            )
        self.endpoint = dataclasses.replace(self.endpoint, names=list(names))

    @property
    def named(self) -> dict[str, Any]:
        """The inputs by name."""
        return dict(zip(self.endpoint.inputs, keras.tree.flatten(self.arguments), strict=True))

    @property
    def want(self) -> Arrays:
        """What the model returned, by name."""
        return as_arrays(self.endpoint.named(self._outputs))

    def again(self) -> Arrays:
        """Returns what it returns on the same inputs in the same state."""
        return as_arrays(self.endpoint.named(self._call(self.arguments)))

    def check_before_activations(self, changed: Any, tolerance: float) -> None:
        """Raises if another model differs before the last activations, which hide much."""
        with (
            without_last_activations(self.model) as any_,
            without_last_activations(changed),
        ):
            if any_ and changed is not self.model:
                want, got = (
                    as_arrays(self.endpoint.named(compiled(model)(self.arguments)))
                    for model in (self.model, changed)
                )
                try:
                    largest_difference(got, want, tolerance, lambda: want)
                except ValueError as error:
                    raise ValueError(f"before its last activation, {error}") from error

    def difference(self, changed: Any) -> float:
        """Returns how far another model of the same signature is, or raises if too far."""
        got = as_arrays(self.endpoint.named(compiled(changed)(self.arguments)))
        limit = default_tolerance(changed)
        self.check_before_activations(changed, limit)
        return largest_difference(got, self.want, limit, self.again)[0]
