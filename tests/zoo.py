"""Models and data as users have them, and the table of what the package refuses to do with them.

`MODELS` and `DATA` are run through every public procedure by `tests/test_zoo.py`; a pair that is
refused stands in `REFUSALS` with the reason. A function with the decorator `@model` returns the
model, its inputs, its targets and its loss, and is enrolled by that.
"""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerastools.constraints import MaxNorm
from kerastools.initializers import HeNormal
from kerastools.layers import Dropout

TENSORFLOW = keras.backend.backend() == "tensorflow"
ROWS, BATCH = 32, 8
CLASSES, BINARY = "sparse_categorical_crossentropy", "binary_crossentropy"


@dataclasses.dataclass(eq=False)
class Specimen:
    """A compiled model with the data that it learns.

    Attributes:
        name: Its name in `MODELS`.
        kind: The name of its data in `DATA`.
        model: The model; built and compiled, unless it is there to be neither.
        rows: Inputs and targets as arrays.
        compiling: What `compile` is given but for the optimizer.
        fitting: What `fit` is given: `x`, perhaps `y`, and so on.
    """

    name: str
    kind: str
    model: keras.Model
    rows: tuple[Any, Any]
    compiling: dict[str, Any]
    fitting: dict[str, Any]

    @property
    def x(self) -> Any:
        return self.fitting["x"]

    @property
    def y(self) -> Any:
        return self.fitting.get("y")

    @property
    def options(self) -> dict[str, Any]:
        """What is passed beside x and y."""
        return {name: a for name, a in self.fitting.items() if name not in ("x", "y")}

    def twin(self) -> "Specimen":
        """Returns the same again."""
        return specimen(self.name, self.kind)

    def compile(self, optimizer: Any = "sgd") -> None:
        self.model.compile(optimizer, **self.compiling)

    def fit(self, model: Any = None, **options: Any) -> dict[str, list[float]]:
        """Trains for an epoch from a seed; returns the history."""
        keras.utils.set_random_seed(9)
        fitting = {"epochs": 1, "verbose": 0} | self.fitting | options
        return (model or self.model).fit(**fitting).history


MODELS: dict[str, Callable[[], tuple]] = {}


def model(make: Callable[[], tuple]) -> Callable[[], tuple]:
    """Enrols a function that returns (model, x, y, loss) and, if need be, more of `compile`."""
    MODELS[make.__name__] = make
    return make


def specimen(name: str, kind: str = "arrays") -> Specimen:
    """Returns the model of that name, the same each time, with moved batch statistics."""
    keras.utils.set_random_seed(7)
    made, x, y, loss, *more = MODELS[name]()
    rng = np.random.default_rng(7)
    for variable in made.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(scale=0.3, size=variable.shape))
    compiling = {"loss": loss} | (more[0] if more else {})
    fitting = DATA[kind](x, y) | ({"shuffle": False} if name == "stateful_lstm" else {})
    found = Specimen(name, kind, made, (x, y), compiling, fitting)
    if name != "not_compiled":
        found.compile(keras.optimizers.SGD(0.01))
    return found


def normal(*shape: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(rows, *shape)).astype("float32")


def tokens(length: int = 6, vocabulary: int = 20) -> np.ndarray:
    """Rows of token ids that end in zeros, as padded texts do."""
    rng = np.random.default_rng(4)
    ids = rng.integers(1, vocabulary, (ROWS, length))
    return np.where(np.arange(length) < rng.integers(2, length + 1, (ROWS, 1)), ids, 0)


def classes(num: int = 3, rows: int = ROWS) -> np.ndarray:
    return np.arange(rows) % num


# Sequences.


@model
def masked_lstm():
    stack = [keras.Input((6,), dtype="int32"), layers.Embedding(20, 4, mask_zero=True)]
    stack += [layers.LSTM(4), layers.Dense(3, activation="softmax")]
    return keras.Sequential(stack), tokens(), classes(), CLASSES


@model
def masking_gru():
    stack = [keras.Input((5, 3)), layers.Masking(), layers.GRU(4, return_sequences=True)]
    stack += [layers.GRU(4), layers.Dense(1)]
    x = normal(5, 3)
    x[::2, 3:] = 0
    return keras.Sequential(stack), x, x.sum((1, 2)), "mse"


@model
def stateful_lstm():
    inputs = keras.Input(batch_shape=(BATCH, 4, 3))
    outputs = layers.Dense(1)(layers.LSTM(4, stateful=True)(inputs))
    x = normal(4, 3)
    return keras.Model(inputs, outputs), x, x.mean((1, 2)), "mse"


@model
def sequence_labels():
    """A label for each step, from both directions."""
    inputs = keras.Input((5, 3))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(inputs)
    outputs = layers.TimeDistributed(layers.Dense(3, activation="softmax"))(x)
    x = normal(5, 3)
    return keras.Model(inputs, outputs), x, x.argmax(-1), CLASSES


@model
def transformer():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
    y = layers.Dense(12, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(8)(y))])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    outputs = layers.Dense(3, activation="softmax")(x)
    return keras.Model(inputs, outputs), tokens(), classes(), CLASSES


@model
def token_encoder():
    """Features of each token of a text, without a head."""
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(80, 6)(inputs)
    outputs = layers.Conv1D(5, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, outputs), tokens(8, 80), normal(8, 5), "mse"


# Images.


def block(x, filters):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


@model
def frozen_trunk():
    """A pretrained net inside another, frozen, under a new head."""
    inputs = keras.Input((6, 6, 3))
    outputs = layers.GlobalAveragePooling2D()(block(block(inputs, 4), 6))
    trunk = keras.Model(inputs, outputs, name="trunk")
    trunk.trainable = False
    inputs = keras.Input((6, 6, 3))
    outputs = layers.Dense(3, activation="softmax", name="head")(trunk(inputs))
    return keras.Model(inputs, outputs), normal(6, 6, 3), classes(), CLASSES


@model
def residual():
    inputs = keras.Input((6, 6, 2))
    x = block(inputs, 4)
    x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3)(x)), normal(6, 6, 2), *with_logits()


def with_logits():
    return classes(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@model
def mobile():
    """Depthwise and separable convolutions with batch normalisation."""
    inputs = keras.Input((6, 6, 3))
    x = layers.DepthwiseConv2D(3, use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.SeparableConv2D(5, 3)(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    outputs = layers.Dense(1, activation="sigmoid")(x)
    x = normal(6, 6, 3)
    return keras.Model(inputs, outputs), x, x[:, 0, 0, 0] > 0, BINARY, {"metrics": ["accuracy"]}


@model
def u_net():
    inputs = keras.Input((8, 8, 1))
    fine = block(inputs, 3)
    coarse = block(layers.MaxPooling2D()(fine), 4)
    up = layers.Conv2DTranspose(3, 2, strides=2)(coarse)
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(layers.Concatenate()([fine, up]))
    x = normal(8, 8, 1)
    return keras.Model(inputs, outputs), x, (x > 0).astype("float32"), BINARY


@model
def conv_autoencoder():
    stack = [keras.Input((8, 8, 1)), layers.Conv2D(3, 3, strides=2, padding="same", name="down")]
    stack += [layers.LeakyReLU(), layers.Conv2DTranspose(1, 3, strides=2, padding="same")]
    x = normal(8, 8, 1)
    return keras.Sequential(stack), x, x, "mse"


@model
def augmented():
    """Random layers of Keras in front of a net."""
    stack = [keras.Input((6, 6, 1)), layers.RandomFlip(seed=1), layers.Conv2D(3, 3)]
    stack += [layers.SpatialDropout2D(0.2, seed=2), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential(stack), normal(6, 6, 1), *with_logits()


# Several inputs, outputs and calls.


@model
def dictionaries():
    """Inputs and outputs by name, each output with a loss and a weight."""
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    x = layers.Concatenate()([layers.Dense(5, "relu")(left), layers.Dense(5, "tanh")(right)])
    x = layers.Dense(6, "relu")(layers.BatchNormalization()(x))
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(x),
        "size": layers.Dense(1, name="size")(x),
    }
    net = keras.Model({"left": left, "right": right}, outputs)
    x = {"left": normal(4), "right": normal(3)}
    y = {"kind": classes(), "size": x["left"][:, 0]}
    more = {"loss_weights": {"kind": 1.0, "size": 0.3}, "metrics": {"kind": ["accuracy"]}}
    return net, x, y, {"kind": CLASSES, "size": "mse"}, more


@model
def several_losses():
    inputs = keras.Input((4,))
    x = layers.Dense(6, "elu")(inputs)
    outputs = [layers.Dense(3, activation="softmax")(x), layers.Dense(1)(x)]
    x = normal(4)
    return keras.Model(inputs, outputs), x, [classes(), x[:, :1]], [CLASSES, "huber"]


@model
def siamese():
    """One encoder for two inputs."""
    stack = [keras.Input((4,)), layers.Dense(6, "relu"), layers.BatchNormalization()]
    encoder = keras.Sequential(stack, name="encoder")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    outputs = layers.Dense(1, activation="sigmoid")(ops.abs(encoder(a) - encoder(b)))
    x = [normal(4), normal(4)[::-1].copy()]
    return keras.Model([a, b], outputs), x, (x[0] > x[1])[:, :1].astype("float32"), BINARY


@model
def operations():
    """`keras.ops` between the layers."""
    inputs = keras.Input((6,))
    x = ops.concatenate([inputs, ops.square(inputs) * 0.5 + 1.0], axis=-1)
    x = ops.reshape(layers.Dense(6, "relu")(x), (-1, 2, 3))
    x = layers.BatchNormalization()(ops.mean(x, axis=1))
    return keras.Model(inputs, layers.Dense(1)(x)), normal(6), normal(1), "mse"


@model
def lambda_layer():
    stack = [keras.Input((4,)), layers.Lambda(lambda x: ops.tanh(x) * 2, output_shape=(4,))]
    return keras.Sequential([*stack, layers.Dense(5, "relu"), layers.Dense(1)]), *regression()


def regression():
    x = normal(4)
    return x, x[:, :1] - x[:, 1:2], "mse"


# Code of the user's own.


@keras.saving.register_keras_serializable("zoo")
class Composite(layers.Layer):
    """Layers inside a layer."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense, self.norm = layers.Dense(units), layers.BatchNormalization()

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build((*shape[:-1], self.units))

    def call(self, x, training=None):
        return ops.relu(self.norm(self.dense(x), training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Scaled(layers.Layer):
    """Weights of its own, and no `get_config` that says how it was made."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")

    def call(self, x):
        return x * self.scale * self.factor

    def get_config(self):
        return super().get_config()


@keras.saving.register_keras_serializable("zoo")
class Sparse(layers.Layer):
    """A layer that adds to the loss."""

    def call(self, x):
        self.add_loss(1e-2 * ops.mean(ops.abs(x)))
        return x


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.norm = layers.Dense(5, "relu"), layers.BatchNormalization()
        self.drop, self.out = layers.Dropout(0.2, seed=3), layers.Dense(1)

    def call(self, x, training=None):
        x = self.norm(self.hidden(x), training=training)
        return self.out(self.drop(x, training=training))


class OwnStep(keras.Model):
    """A training step of its own, as Keras's guide writes it, and a log of its own."""

    def train_step(self, *arguments):
        if not TENSORFLOW:
            logs, state = super().train_step(*arguments)
            return {**logs, "twice": 2 * logs["loss"]}, state
        import tensorflow as tf

        x, y, _ = keras.utils.unpack_x_y_sample_weight(arguments[0])
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x, training=True) - y))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss, "twice": 2 * loss}


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.abs(y - y_pred)) + 1e-3 * ops.mean(ops.square(y_pred))


class Named(keras.Model):
    """A functional model in a class of the user's own, which computes nothing else."""

    def describe(self):
        return f"a net of {len(self.layers)} layers"


def small(cls, *hidden):
    inputs = keras.Input((4,))
    x = layers.Dense(5, "relu", name="hidden")(inputs)
    for layer in hidden:
        x = layer(x)
    return cls(inputs, layers.Dense(1, name="head")(x))


@model
def plain():
    return small(keras.Model, layers.BatchNormalization()), *regression()


@model
def subclassed():
    net = Subclassed()
    net(normal(4))
    return net, *regression()


@model
def composite_layer():
    return small(keras.Model, Composite(4), layers.BatchNormalization()), *regression()


@model
def layer_without_config():
    return small(keras.Model, Scaled(2.0), layers.BatchNormalization()), *regression()


@model
def own_train_step():
    return small(OwnStep, layers.BatchNormalization()), *regression()


@model
def own_compute_loss():
    return small(OwnLoss, layers.BatchNormalization()), *regression()


@model
def functional_subclass():
    return small(Named, layers.BatchNormalization(), layers.Dropout(0.2, seed=1)), *regression()


@model
def added_losses():
    """Losses of layers: of one of the user's own, a regularizer and an activity regularizer."""
    penalised = layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")
    return small(keras.Model, penalised, Sparse()), *regression()


# Types, preprocessing and states of a model.


@model
def mixed_bfloat16():
    policy = {"dtype": "mixed_bfloat16"}
    inputs = keras.Input((4,))
    x = layers.Dense(6, "relu", **policy)(inputs)
    x = layers.Dense(6, **policy)(layers.BatchNormalization(**policy)(x))
    return keras.Model(inputs, layers.Dense(1, dtype="float32")(x)), *regression()


@model
def adapted_normalization():
    x = 50 + 9 * normal(4)
    norm = layers.Normalization()
    norm.adapt(x)
    stack = [keras.Input((4,)), norm, layers.Dense(5, "relu"), layers.Dense(1)]
    return keras.Sequential(stack), x, normal(1), "mse"


if TENSORFLOW:  # On JAX strings cannot enter a compiled program, whose model is this one.

    @model
    def strings():
        lookup = layers.StringLookup(vocabulary=["red", "green", "blue"], output_mode="one_hot")
        stack = [keras.Input((1,), dtype="string"), lookup, layers.Dense(4, "relu")]
        x = ops.convert_to_tensor([["red"], ["green"], ["blue"], ["black"]] * (ROWS // 4))
        return keras.Sequential([*stack, layers.Dense(1)]), x, normal(1), "mse"


@model
def normalizations():
    stack = [keras.Input((6, 4)), layers.Conv1D(4, 2), layers.GroupNormalization(2)]
    stack += [layers.Activation("silu"), layers.RMSNormalization(), layers.UnitNormalization()]
    stack += [layers.GlobalMaxPooling1D(), layers.EinsumDense("ab,bc->ac", 5, bias_axes="c")]
    return keras.Sequential([*stack, layers.Dense(1)]), normal(6, 4), normal(1), "mse"


@model
def selu_net():
    init = {"activation": "selu", "kernel_initializer": "lecun_normal"}
    stack = [keras.Input((4,)), layers.Dense(6, **init), layers.AlphaDropout(0.1, seed=1)]
    return keras.Sequential([*stack, layers.Dense(6, **init), layers.Dense(1)]), *regression()


@model
def sigmoid_stack():
    stack = [keras.Input((4,)), layers.Dense(5, "sigmoid"), layers.Dense(3, "sigmoid")]
    x = (normal(4) > 0).astype("float32")
    return keras.Sequential(stack), x, x[:, :3], "mse"


@model
def our_parts():
    parts = {"kernel_initializer": HeNormal(seed=1), "kernel_constraint": MaxNorm(1.0)}
    stack = [keras.Input((4,)), layers.Dense(6, "relu", **parts), layers.BatchNormalization()]
    return keras.Sequential([*stack, Dropout(0.3, seed=2), layers.Dense(1)]), *regression()


@model
def not_compiled():
    return small(keras.Model, layers.BatchNormalization()), *regression()


@model
def not_built():
    """A Sequential model that sees its first data in `fit`."""
    return keras.Sequential([layers.Dense(5, "relu"), layers.Dense(1)]), *regression()


@model
def one_row():
    net = small(keras.Model, layers.BatchNormalization())
    x, y, loss = regression()
    return net, x[:1], y[:1], loss


# Data. Each takes rows and returns arguments of `fit`.

DATA: dict[str, Callable[[Any, Any], dict[str, Any]]] = {}


def data(make: Callable[[Any, Any], dict[str, Any]]) -> Callable[[Any, Any], dict[str, Any]]:
    """Enrols a function from `x, y` to the arguments of `fit`."""
    DATA[make.__name__] = make
    return make


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // BATCH)

    def __getitem__(self, i):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        return self.x[rows], self.y[rows]


def endless(x, y):
    while True:
        for i in range(0, len(x), BATCH):
            yield x[i : i + BATCH], y[i : i + BATCH]


def tf_data(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y))


@data
def arrays(x, y):
    return {"x": x, "y": y, "batch_size": BATCH}


@data
def last_batch_smaller(x, y):
    return {"x": x[:-3], "y": y[:-3], "batch_size": BATCH}


@data
def float64_lists(x, y):
    return {"x": [x.astype("float64")], "y": y.astype("float64"), "batch_size": BATCH}


@data
def data_frame(x, y):
    import pandas as pd

    return {"x": pd.DataFrame(x), "y": pd.Series(y[:, 0]), "batch_size": BATCH}


@data
def tensors(x, y):
    return {"x": ops.convert_to_tensor(x), "y": ops.convert_to_tensor(y), "batch_size": BATCH}


@data
def sample_weight(x, y):
    weight = np.linspace(0, 2, len(x)).astype("float32")
    return {"x": x, "y": y, "sample_weight": weight, "batch_size": BATCH}


@data
def class_weight(x, y):
    labels = (y > 0).astype("float32")
    return {"x": x, "y": labels, "class_weight": {0: 1.0, 1: 3.0}, "batch_size": BATCH}


@data
def validation_split(x, y):
    return {"x": x, "y": y, "validation_split": 0.25, "batch_size": BATCH}


@data
def dataset(x, y):
    return {"x": tf_data(x, y).batch(BATCH)}


@data
def shuffled_dataset(x, y):
    return {"x": tf_data(x, y).shuffle(8, seed=1).batch(BATCH).prefetch(1)}


@data
def dataset_of_unknown_length(x, y):
    import tensorflow as tf

    def batches():
        for i in range(0, len(x), BATCH):
            yield x[i : i + BATCH], y[i : i + BATCH]

    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in (x, y))
    return {"x": tf.data.Dataset.from_generator(batches, output_signature=signature)}


@data
def endless_dataset(x, y):
    return {"x": tf_data(x, y).batch(BATCH).repeat(), "steps_per_epoch": 3}


@data
def py_dataset(x, y):
    return {"x": Batches(x, y)}


@data
def generator(x, y):
    return {"x": endless(x, y), "steps_per_epoch": 3}


# What is refused.


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Pairs that a procedure does not serve.

    Attributes:
        procedures: Patterns of names of procedures, separated by spaces.
        subjects: Patterns of names of models or data.
        match: What the message says, as a regular expression.
        reason: Why.
        but: Subjects that are served nevertheless.
        defect: Whether this is wrong and to be fixed: then anything may be raised, and what is
            changed until then is not looked at.
        backend: The only backend where this holds, if it is one.
    """

    procedures: str
    subjects: str
    match: str
    reason: str
    but: str = ""
    defect: bool = False
    backend: str = ""

    def covers(self, procedure: str, subject: str) -> bool:
        return (
            self.backend in ("", keras.backend.backend())
            and matches(procedure, self.procedures)
            and matches(subject, self.subjects)
            and not matches(subject, self.but)
        )


def matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split())


# What reads the graph of a model.
GRAPH = (
    "diagnosed repaired signal_monitor initialized calibrated regularized dropout_schedule "
    "adaptive_dropout held_constraints prediction_with_dropout folded recalibrated reused "
    "fine_tuned feature_cache reuse_depth schedules autoencoder deep_belief gan masked_tokens"
)

REFUSALS = [
    Refusal(
        GRAPH,
        "subclassed",
        "needs a functional or Sequential model",
        "it reads the graph of layers, and a call() of the user's own is Python code",
    ),
    Refusal(
        GRAPH + " fast_prediction parameter_groups rebound freeze_schedule exchanged",
        "not_built",
        "needs a built model",
        "there are no weights before the first data",
    ),
    Refusal(
        "exported",
        "*",
        "needs the TensorFlow backend",
        "a SavedModel is TensorFlow's graph",
        but="not_built",
        backend="jax",
    ),
    Refusal(
        "dropout_schedule adaptive_dropout",
        "augmented functional_subclass",
        "found no dropout layer with a mutable rate",
        "regularize puts no second dropout where Keras's stands, whose rate cannot be set",
    ),
    Refusal(
        "folded regularized dropout_schedule adaptive_dropout held_constraints reused "
        "prediction_with_dropout reuse_depth tuned exchanged",
        "layer_without_config",
        "could not copy layer",
        "the new model has layers of its own, and this one cannot be made again",
    ),
    Refusal(
        "autoencoder gan",
        "*",
        "knows the mirror|mirrors encoders that are a chain|one input and one output|needs numbers",
        "only a chain of dense and convolutional layers is mirrored; others need their own decoder",
        but="plain own_* functional_subclass frozen_trunk composite_layer mixed_bfloat16 selu_net "
        "sigmoid_stack our_parts not_compiled one_row " + " ".join(DATA),
    ),
    Refusal(
        "deep_belief",
        "*",
        "sigmoid activations and biases|knows the mirror|mirrors encoders|one input and one output",
        "a deep belief net is a chain of sigmoid Dense layers",
        but="sigmoid_stack",
    ),
    Refusal(
        "masked_tokens",
        "*",
        "needs an encoder of token ids|one input and one output",
        "what is pretrained gives features of each token of a text",
        but="token_encoder",
    ),
    Refusal(
        "reused",
        "siamese",
        "needs a layer that is called once",
        "of two calls it is not said which one is meant",
    ),
    Refusal(
        "fast_prediction prediction_with_dropout",
        "endless_dataset generator",
        "needs data that ends",
        "there is a prediction for each row",
    ),
    Refusal(
        "reuse_depth autoencoder tuned",
        "*dataset* generator",
        "needs arrays",
        "takes arrays only until now",
        defect=True,
    ),
    Refusal(
        "exported",
        "not_built",
        "needs a built model",
        "there are no weights before the first data",
    ),
    Refusal(
        "feature_cache",
        "shuffled_dataset endless_dataset generator",
        "needs a dataset that|needs data that can be read again",
        "features are kept by row, so that the rows must come again in the same order",
    ),
    Refusal(
        "tuned",
        "stateful_lstm",
        "All 2 trials of the search failed",
        "a batch of fixed size does not fit the rows that are left when a fifth is held out",
        defect=True,
    ),
    Refusal(
        "tuned",
        "subclassed",
        "needs a functional or Sequential model",
        "a trial trains a copy, and a subclassed model cannot be copied",
    ),
    Refusal(
        "fine_tuned feature_cache",
        "stateful_lstm",
        "If an RNN is stateful",
        "the cache tries the layers on four rows, which a fixed batch size does not take",
        defect=True,
    ),
    Refusal(
        "recalibrated",
        "float64_lists",
        "needs inputs as the model takes them",
        "a list of one array is not taken for the array, as fit does",
        defect=True,
    ),
    Refusal(
        "diagnosed repaired",
        "strings",
        "could not convert string",
        "the measurement makes floats of inputs",
        defect=True,
    ),
]


def refusal(procedure: str, subject: str) -> Refusal | None:
    """Returns the first entry of the table for a pair, or `None` if it shall work."""
    return next((entry for entry in REFUSALS if entry.covers(procedure, subject)), None)
