"""Pretraining a dense stack as a deep belief net."""

import os
from pathlib import Path
from typing import Any

import keras

from kerastools._core.batches import Batches
from kerastools._core.graph.activations import activation_name
from kerastools._core.graph.kinds import is_kind, kind_of
from kerastools._core.replicas import in_strategy_scope
from kerastools.pretraining._mirror import read_chain
from kerastools.pretraining._restricted_boltzmann import RestrictedBoltzmann, check_visible
from kerastools.pretraining._resumable_fit import resumable_fit, seed_of, set_history
from kerastools.pretraining._rows import check_encoder, fresh_optimizer

_NAME = "pretrain_deep_belief"


@in_strategy_scope
def pretrain_deep_belief(
    encoder: keras.Model,
    x: Any,
    visible: str = "bernoulli",
    gibbs_steps: int = 1,
    num_chains: int | None = None,
    optimizer: Any = None,
    epochs: int = 50,
    batch_size: int = 32,
    seed: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **fit: Any,
) -> keras.Model:
    """Starts a stack of sigmoid `Dense` layers, in place, from restricted Boltzmann machines.

    The historic way to train deep nets: a machine learns the rows, the next learns the
    probabilities of the hidden bits of the one below, and so on. Each `Dense` layer takes W and c
    of its machine, so that it computes p(h = 1 | v) as the machine does. Then train on labels, with
    `kerastools.transfer.reuse_layers` and a `FreezeSchedule`, or the stack as it is.

        W₁, c₁ from x;   x₁ = σ(xW₁ + c₁);   W₂, c₂ from x₁;   …

    Args:
        encoder: A built chain of `Dense` layers with sigmoid activations; dropout between them is
            left out while the machines learn.
        x: Rows without labels: in [0, 1], or of zero mean and unit variance for `"gaussian"`.
        visible: The units of the lowest machine, `"bernoulli"` or `"gaussian"`; those above it are
            Bernoulli.
        gibbs_steps: k of contrastive divergence.
        num_chains: Number of persistent chains; `None` for CD-k.
        optimizer: An optimizer to copy, or its name. By default Adam with learning rate 0.005.
        epochs: Passes over x per machine.
        batch_size: Rows per step. Only whole batches are taken, in a new order each epoch.
        seed: Integer that fixes the machines' weights, the sampling and the order of rows. By
            default it is new each time.
        directory: Where everything is kept after each epoch; the same call in a new process
            goes on from there, to the bit.
        **fit: What `keras.Model.fit` takes: `verbose`, `callbacks`.

    Returns:
        `encoder`. Its `history` has, per layer, what the machine reported:
        `"<layer>_pseudo_likelihood"` and so on, see `RestrictedBoltzmann`.

    Raises:
        TypeError: If the encoder is not a Keras model.
        ValueError: If it is not a chain of sigmoid `Dense` layers with biases, x does not fit,
            looks like labels or holds NaN, there are fewer rows than `batch_size`, or an option is
            unknown. Nothing is changed then.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(1).integers(0, 2, size=(64, 1)) * np.ones((1, 6))
    >>> layers = [keras.layers.Dense(n, "sigmoid", name=f"hidden_{n}") for n in (4, 2)]
    >>> encoder = keras.Sequential([keras.Input((6,)), *layers])
    >>> encoder = pretrain_deep_belief(encoder, x, epochs=5, verbose=0)
    >>> [name for name in encoder.history.history if "pseudo" in name]
    ['hidden_4_pseudo_likelihood', 'hidden_2_pseudo_likelihood']

    Reference: Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural
    Computation 2006; Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural
    networks", Science 2006.
    """
    seed = seed_of(seed, directory)
    check_encoder(encoder, _NAME)
    layers = _dense_layers(encoder)
    x = check_visible(x, encoder.inputs[0].shape[1:], visible, batch_size, _NAME)
    machines = [
        RestrictedBoltzmann(
            layer.units,
            visible=visible if i == 0 else "bernoulli",
            gibbs_steps=gibbs_steps,
            num_chains=num_chains,
            seed=seed + i,
            name=f"machine_of_{layer.name}",
        )
        for i, layer in enumerate(layers)
    ]
    history: dict[str, list[Any]] = {}
    learned = []
    for i, (layer, machine) in enumerate(zip(layers, machines, strict=True)):
        if fit.get("verbose") != 0:
            print(f"{_NAME}: machine {i + 1} of {len(layers)}, {layer.name}")
        machine.build(x.shape)
        machine.compile(fresh_optimizer(optimizer, 5e-3))
        batches = Batches([x], batch_size, seed + i, lambda arrays, rng: arrays)
        folder = None if directory is None else Path(directory) / f"machine_{i + 1}"
        resumable_fit(machine, batches, epochs, folder, **fit)
        for name, values in machine.history.history.items():
            history[f"{layer.name}_{name}"] = values
        learned.append((machine.kernel, machine.hidden_bias))
        x = machine.predict(x, batch_size=256, verbose=0)
    for layer, (kernel, bias) in zip(layers, learned, strict=True):
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
    set_history(encoder, epochs, history)
    return encoder


def _dense_layers(encoder: keras.Model) -> list[Any]:
    """Returns the layers that do something, or raises unless all are sigmoid `Dense` layers."""
    chain = [step.layer for step in read_chain(encoder, _NAME)]
    layers = [layer for layer in chain if not kind_of(layer).identity_in_inference]
    for layer in layers:
        dense = is_kind(layer, "dense") and layer.use_bias
        if not dense or activation_name(layer.activation) != "sigmoid":
            raise ValueError(
                f"{_NAME} needs Dense layers with sigmoid activations and biases, which compute "
                f'what the machines do. Received layer "{layer.name}" of type '
                f"{type(layer).__name__} with activation "
                f"{activation_name(getattr(layer, 'activation', None))!r}. Build the encoder with "
                'keras.layers.Dense(units, activation="sigmoid"), or use pretrain_autoencoder.'
            )
    return layers
