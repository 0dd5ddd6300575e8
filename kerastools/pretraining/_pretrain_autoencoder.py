"""Pretraining an encoder by letting a decoder reconstruct its input."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import Batches
from kerastools._core.checks import require_built
from kerastools._core.replicas import in_strategy_scope, mean_over_replicas
from kerastools.pretraining._mirror import Step, is_kernel_layer, mirror, read_chain
from kerastools.pretraining._resumable_fit import resumable_fit, seed_of, set_history
from kerastools.pretraining._rows import check_encoder, check_rows, fresh_optimizer

Noise = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, Any]]

_NAME = "pretrain_autoencoder"
_LOSSES = ("mse", "mae", "huber", "binary_crossentropy")


@in_strategy_scope
def pretrain_autoencoder(
    encoder: keras.Model,
    x: Any,
    decoder: str | keras.Model = "mirrored",
    noise: Noise | None = None,
    greedy: bool = False,
    loss: str = "mse",
    optimizer: Any = None,
    epochs: int = 100,
    batch_size: int = 32,
    seed: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **fit: Any,
) -> keras.Model:
    """Trains `encoder`, in place, to keep what its input can be reconstructed from.

    For when few rows have labels and many have none: pretrain on all rows, take the lower layers
    with `kerastools.transfer.reuse_layers`, train new upper ones under a `FreezeSchedule`. With
    f the encoder, g the decoder, x̃ the row that noise made of x, ℓ the loss per feature and w what
    each feature counts:

        J = Σ w ⊗ ℓ(x, g(f(x̃))) / Σ w

    Without noise a code as wide as the input can be a mere copy; noise makes the encoder learn how
    features depend on each other, and is what helped most in our comparisons
    (`examples/pretraining_digits.py`).

    Greedy is the historic way: each layer with weights, together with the layers up to the next,
    is trained as an autoencoder of its own on the codes of the layers below it, which stay as they
    are. The noise then falls on those codes. The decoders are put together at the end.

    Args:
        encoder: A built model with one input and one output. Its weights are trained from their
            present values.
        x: Rows without labels, as the encoder takes them.
        decoder: `"mirrored"`: the encoder run backwards; `Dense` and convolutions (as transposed
            convolutions), pooling (as repetition), `Flatten` and `Reshape` are known; dropout and
            normalisation are left out; nested models and layers of your own that only call such
            layers are entered, unless `greedy`. `"tied"`: the same with the encoder's kernels,
            transposed. Or a model of your own from the code to the input, for any encoder.
        noise: `MaskingNoise`, `GaussianNoise`, or a function of rows and a `numpy` generator that
            returns the noisy rows and what each feature counts in the loss (`None`: equally). New
            noise is drawn for every batch. By default none.
        greedy: Whether to train layer by layer. Only with a mirrored or tied decoder.
        loss: `"mse"`, `"mae"`, `"huber"` or `"binary_crossentropy"`; with the last the
            reconstruction ends in a sigmoid and x lies in [0, 1]. Greedy uses it for the first
            layer and squared error for the codes above.
        optimizer: An optimizer to copy, or its name. By default Adam with learning rate 0.001.
        epochs: Passes over x; for greedy, per layer.
        batch_size: Rows per step. Only whole batches are taken, in a new order each epoch.
        seed: Integer that fixes the decoder's initial weights, the order of rows and the noise,
            without touching Keras's global seed. By
            default it is new each time.
        directory: Where everything is kept after each epoch. The same call in a new process
            goes on from there, to the bit, after Ctrl-C or a crash; with more epochs, it goes on
            training.
        **fit: What `keras.Model.fit` takes: `verbose`, `callbacks`, `validation_data`.

    Returns:
        The autoencoder: a model of the encoder's own layers, followed by one model, "decoder". Its
        `history` is Keras's; with `greedy` there is one loss per layer, `"<layer>_loss"`.

    Raises:
        TypeError: If the encoder is not a Keras model.
        ValueError: If it has no trainable weights or cannot be mirrored, x does not fit it, looks
            like labels or holds NaN, there are fewer rows than `batch_size`, or an option is
            unknown. Nothing is changed then.

    Example:

    >>> import numpy as np
    >>> keras.utils.set_random_seed(1)
    >>> x = np.random.default_rng(1).normal(size=(64, 2)) @ [[1, 2, 0, 1], [0, 1, 1, -1]]
    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="code")])
    >>> model = pretrain_autoencoder(encoder, x, epochs=20, batch_size=8, verbose=0)
    >>> [layer.name for layer in model.layers[1:]]
    ['code', 'decoder']
    >>> losses = model.history.history["loss"]
    >>> losses[-1] < 0.9 * losses[0]
    True

    References: Bengio, Lamblin, Popovici and Larochelle, "Greedy layer-wise training of deep
    networks", NeurIPS 2006; Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising
    autoencoders", JMLR 2010; Erhan et al., "Why does unsupervised pre-training help deep
    learning?", JMLR 2010.
    """
    seed = seed_of(seed, directory)
    check_encoder(encoder, _NAME)
    x = check_rows(x, encoder.inputs[0].shape[1:], batch_size, _NAME)
    elementwise, end = _read_loss(loss, x)
    tied = isinstance(decoder, str) and decoder == "tied"
    training = _Training(elementwise, noise, optimizer, epochs, batch_size, seed, fit)
    if isinstance(decoder, keras.Model):
        _check_own_decoder(encoder, decoder, greedy)
    elif decoder not in ("mirrored", "tied"):
        raise ValueError(
            f'{_NAME} needs decoder to be "mirrored", "tied" or a keras.Model. Received '
            f"{decoder!r}."
        )
    else:
        steps = read_chain(encoder, _NAME, enter=not greedy)
        if greedy:
            return _pretrain_greedily(encoder, steps, x, tied, end, loss, training, directory)
        decoder = mirror(steps, end, tied, seed, "decoder")
    model = keras.Model(encoder.inputs[0], decoder(encoder.outputs[0]), name="autoencoder")
    training.check_noise(x.shape[1:])
    training.run(model, x, directory)
    model.compile(model.optimizer, loss)  # A loss by name can be saved with the model.
    return model


@dataclass(frozen=True)
class _Training:
    """How an autoencoder is trained, whichever it is."""

    elementwise: Any
    noise: Noise | None
    optimizer: Any
    epochs: int
    batch_size: int
    seed: int
    fit: dict[str, Any]

    def run(self, model: keras.Model, x: np.ndarray, directory: Any) -> None:
        """Trains `model` to return `x`."""
        model.compile(fresh_optimizer(self.optimizer, 1e-3), _weighted(self.elementwise))
        batches = Batches([x], self.batch_size, self.seed, self.corrupt)
        resumable_fit(model, batches, self.epochs, directory, **self.fit)

    def corrupt(
        self, arrays: tuple[np.ndarray, ...], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns noisy rows, and the clean ones with their weights, if any, on a last axis."""
        (x,) = arrays
        if self.noise is None:
            return x, x
        noisy, weight = self.noise(x, rng)
        return noisy.astype("float32"), x if weight is None else np.stack([x, weight], axis=-1)

    def check_noise(self, shape: tuple[int, ...]) -> None:
        """Raises unless the noise takes rows of `shape` and returns rows of the same."""
        if self.noise is None:
            return
        rows = np.zeros((2, *shape), "float32")
        noisy, weight = self.noise(rows, np.random.default_rng(0))
        if any(a is not None and np.shape(a) != rows.shape for a in (noisy, weight)):
            raise ValueError(
                f"{_NAME} needs noise that returns rows, and weights or None, of the shape it got, "
                f"{rows.shape}. Received rows of shape {np.shape(noisy)}"
                + ("." if weight is None else f" and weights of shape {np.shape(weight)}.")
            )


def _pretrain_greedily(
    encoder: keras.Model,
    steps: list[Step],
    x: np.ndarray,
    tied: bool,
    end: Any,
    loss: str,
    training: _Training,
    directory: Any,
) -> keras.Model:
    """Trains one layer after the other, each on the codes of those below."""
    if "validation_data" in training.fit:
        raise ValueError(
            f"{_NAME} cannot use validation_data with greedy=True: the layers above the first "
            "learn from codes. Evaluate the autoencoder that it returns."
        )
    blocks = _blocks(steps)
    for block in blocks:
        training.check_noise(tuple(block[0].input.shape[1:]))
    decoders, history = [], {}
    for i, block in enumerate(blocks):
        kernel = next(step for step in block if is_kernel_layer(step.layer))
        part = keras.Model(block[0].input, block[-1].output)
        above = end if i == 0 else kernel.activation
        decoder = mirror(block, above, tied, training.seed + i, f"decoder_of_{kernel.layer.name}")
        model = keras.Model(part.inputs[0], decoder(part.outputs[0]), name=f"stage_{i + 1}")
        stage = training if i == 0 else replace(training, elementwise=keras.losses.get("mse"))
        if stage.fit.get("verbose") != 0:
            print(f"{_NAME}: layer {i + 1} of {len(blocks)}, {kernel.layer.name}")
        stage.run(model, x, None if directory is None else Path(directory) / f"layer_{i + 1}")
        history[f"{kernel.layer.name}_loss"] = model.history.history["loss"]
        x = part.predict(x, batch_size=256, verbose=0)
        decoders.append(decoder)
    code = keras.Input(encoder.outputs[0].shape[1:])
    outputs = code
    for decoder in reversed(decoders):
        outputs = decoder(outputs)
    decoder = keras.Model(code, outputs, name="decoder")
    model = keras.Model(encoder.inputs[0], decoder(encoder.outputs[0]), name="autoencoder")
    model.compile(fresh_optimizer(training.optimizer, 1e-3), loss)
    set_history(model, training.epochs, history)
    return model


def _blocks(steps: list[Step]) -> list[list[Step]]:
    """Returns the chain in pieces with one kernel each, which all but the first begin with."""
    starts = [i for i, step in enumerate(steps) if is_kernel_layer(step.layer)]
    edges = [0, *starts[1:], len(steps)]
    return [steps[a:b] for a, b in pairwise(edges)]


def _weighted(elementwise: Any) -> Any:
    """Returns the loss Σ w ⊗ ℓ / Σ w; the weights, if any, follow the target on a last axis."""

    def loss(target: Any, output: Any) -> Any:
        if len(target.shape) == len(output.shape):
            return mean_over_replicas(elementwise(target[..., None], output[..., None]))
        target, weight = target[..., 0], target[..., 1]
        return mean_over_replicas(elementwise(target[..., None], output[..., None]), weight)

    return loss


def _read_loss(loss: str, x: np.ndarray) -> tuple[Any, str | None]:
    """Returns the loss per feature and the activation of the reconstruction."""
    if loss not in _LOSSES:
        raise ValueError(f"{_NAME} needs loss to be one of {_LOSSES}. Received loss={loss!r}.")
    if loss != "binary_crossentropy":
        return keras.losses.get(loss), None
    if x.min() < 0 or x.max() > 1:
        raise ValueError(
            f'{_NAME} needs x in [0, 1] with loss="binary_crossentropy". Received x from '
            f'{x.min():g} to {x.max():g}. Rescale it, or use loss="mse".'
        )
    return keras.losses.get(loss), "sigmoid"


def _check_own_decoder(encoder: keras.Model, decoder: keras.Model, greedy: bool) -> None:
    if greedy:
        raise ValueError(
            f'{_NAME} needs decoder="mirrored" or "tied" with greedy=True, because it takes the '
            f'decoder apart. Received the model "{decoder.name}".'
        )
    require_built(decoder, _NAME)
    want, shape = encoder.inputs[0].shape, encoder.outputs[0].shape
    got = decoder.compute_output_shape(shape)
    if tuple(got)[1:] != tuple(want)[1:]:
        raise ValueError(
            f"{_NAME} needs a decoder from the code, of shape {tuple(shape)}, to the input, of "
            f'shape {tuple(want)}. Received model "{decoder.name}", which returns {tuple(got)}.'
        )
