"""Pretraining a trunk as the lower layers of a GAN's discriminator."""

import math
import os
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import Batches
from kerastools._core.replicas import in_strategy_scope
from kerastools.calibration import initialize
from kerastools.pretraining._gan import GAN
from kerastools.pretraining._mirror import mirror, read_chain
from kerastools.pretraining._resumable_fit import resumable_fit, seed_of
from kerastools.pretraining._rows import check_encoder, check_rows, fresh_optimizer

_NAME = "pretrain_gan"


@in_strategy_scope
def pretrain_gan(
    trunk: keras.Model,
    x: Any,
    generator: keras.Model | None = None,
    latent_dim: int = 32,
    output_activation: str | None = None,
    penalty: float = 1.0,
    optimizer: Any = None,
    epochs: int = 100,
    batch_size: int = 32,
    seed: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **fit: Any,
) -> GAN:
    """Trains `trunk`, in place, to tell rows from generated ones; the generator learns to fool it.

    What the discriminator must know of the data to tell, its lower layers can lend to a classifier:
    take them with `kerastools.transfer.reuse_layers(gan.discriminator, upto=...)` and train new
    upper ones under a `FreezeSchedule`. The losses are those of `GAN`.

    Leaky ReLU suits the trunk, for a unit that is dead lets no gradient through to the generator.
    Batch normalisation in the trunk sees real and generated rows in batches of their own.

    Args:
        trunk: A built model with one input and one output. A logit is put on its output.
        x: Rows without labels, as the trunk takes them, of about unit scale.
        generator: A built model from z to rows. By default the trunk run backwards from a `Dense`
            layer on z; for a trunk of dense and convolutional layers, see `pretrain_autoencoder`.
        latent_dim: Size of z, for the default generator.
        output_activation: What the default generator ends in: `"sigmoid"` for rows in [0, 1],
            `"tanh"` for [-1, 1]. By default none.
        penalty: Weight of the gradient penalty of `GAN`.
        optimizer: An optimizer to copy, or its name, for both nets. By default Adam with learning
            rate 0.0005 and `beta_1` 0.5.
        epochs: Passes over x.
        batch_size: Rows per step. Only whole batches are taken, in a new order each epoch.
        seed: Integer that fixes the new layers' weights, z and the order of rows. By
            default it is new each time.
        directory: Where everything is kept after each epoch; the same call in a new process
            goes on from there, to the bit.
        **fit: What `keras.Model.fit` takes: `verbose`, `callbacks`.

    Returns:
        A `GAN`, with its `history`. Its `discriminator` is made of the trunk's own layers, and
        "real", the logit.

    Raises:
        TypeError: If the trunk is not a Keras model.
        ValueError: If it has no trainable weights, no default generator can be made for it, x does
            not fit, looks like labels or holds NaN, lies where `output_activation` cannot reach, or
            there are fewer rows than `batch_size`. Nothing is changed then.

    Example:

    >>> x = np.random.default_rng(1).normal(size=(64, 4))
    >>> layer = keras.layers.Dense(8, "leaky_relu", name="hidden")
    >>> trunk = keras.Sequential([keras.Input((4,)), layer])
    >>> gan = pretrain_gan(trunk, x, latent_dim=3, epochs=2, verbose=0)
    >>> gan.discriminator.get_layer("hidden") is layer
    True
    >>> gan.generate(10).shape
    (10, 4)

    Reference: Radford, Metz and Chintala, "Unsupervised representation learning with deep
    convolutional generative adversarial networks", ICLR 2016.
    """
    seed = seed_of(seed, directory)
    check_encoder(trunk, _NAME)
    x = check_rows(x, trunk.inputs[0].shape[1:], batch_size, _NAME)
    _check_range(x, output_activation)
    if generator is None:
        generator = _mirrored_generator(trunk, latent_dim, output_activation, seed)
    features = trunk.outputs[0]
    if len(features.shape) > 2:
        features = keras.layers.Flatten(name="flat")(features)
    # With zero weights the discriminator starts undecided, whatever the trunk returns.
    logit = keras.layers.Dense(1, kernel_initializer="zeros", name="real")
    discriminator = keras.Model(trunk.inputs[0], logit(features), name="discriminator")
    gan = GAN(discriminator, generator, penalty, seed)
    if optimizer is None:
        optimizer = keras.optimizers.Adam(5e-4, beta_1=0.5)
    gan.compile(fresh_optimizer(optimizer, 5e-4))
    batches = Batches([x], batch_size, seed, lambda arrays, rng: arrays)
    resumable_fit(gan, batches, epochs, directory, **fit)
    return gan


def _mirrored_generator(
    trunk: keras.Model, latent_dim: int, output_activation: str | None, seed: int
) -> keras.Model:
    steps = read_chain(trunk, _NAME)
    shape = trunk.outputs[0].shape[1:]
    back = mirror(steps, output_activation, False, seed, "mirrored_trunk")
    z = keras.Input((latent_dim,))
    outputs = keras.layers.Dense(math.prod(shape), activation="relu", name="from_latent")(z)
    if len(shape) > 1:
        outputs = keras.layers.Reshape(shape)(outputs)
    return initialize(keras.Model(z, back(outputs), name="generator"), seed=seed)


def _check_range(x: np.ndarray, output_activation: str | None) -> None:
    ranges = {None: (-np.inf, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1)}
    if output_activation not in ranges:
        raise ValueError(
            f'{_NAME} needs output_activation to be "sigmoid", "tanh" or None. Received '
            f"{output_activation!r}. Pass a generator of your own for others."
        )
    low, high = ranges[output_activation]
    if x.min() < low or x.max() > high:
        raise ValueError(
            f"{_NAME} needs x in [{low}, {high}] with output_activation={output_activation!r}. "
            f"Received x from {x.min():g} to {x.max():g}. Rescale x, or pass None."
        )
