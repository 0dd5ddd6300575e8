"""What every exported class keeps: exporting a class from a room enrols it here.

Each check takes a `Case` (a class and the arguments that a sample of it needs) and fails with an
`AssertionError` that names the class. A class of a kind that no check knows fails too.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import ExponentialDecay

import kerastools
from kerastools._core.table import Printed
from kerastools.callbacks import Phase
from kerastools.optimizers import Adam

# Some optimizers evaluate at other weights than those they train.
pytestmark = pytest.mark.filterwarnings("ignore:Model .* is .* at the weights that its")


def built_dense():
    dense = keras.layers.Dense(6, use_bias=False)
    dense.build((None, 5))
    return dense


def net(inputs, outputs):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(outputs)])


# How a sample of a class is made that cannot be made without arguments, or works with seeds.
SAMPLES = {
    "callbacks.FreezeSchedule": lambda cls: cls([Phase("head", epochs=1), Phase("all")]),
    "callbacks.HyperparameterScheduler": lambda cls: cls(
        "learning_rate", keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.9)
    ),
    "callbacks.LearningRateFinder": lambda cls: cls(1e-3, 1.0, steps=10),
    "diagnosis.SignalMonitor": lambda cls: cls(*data(), every=4),
    "initializers.GatedOrthogonal": lambda cls: cls(gates=2),
    "callbacks.ScaledSchedule": lambda cls: cls(ExponentialDecay(0.05, 10, 0.9), 0.5),
    "layers.AlphaDropout": lambda cls: cls(0.3, seed=7),
    "layers.Dropout": lambda cls: cls(0.3, seed=7),
    "layers.SpatialDropout": lambda cls: cls(0.3, seed=7),
    "layers.SpatialDropout1D": lambda cls: cls(0.3, seed=7),
    "layers.SpatialDropout2D": lambda cls: cls(0.3, seed=7),
    "layers.SpatialDropout3D": lambda cls: cls(0.3, seed=7),
    "optimizers.SGD": lambda cls: cls(0.05, momentum=0.9, nesterov=True),
    "optimizers.Lookahead": lambda cls: cls(Adam(0.05), sync_period=3),
    "optimizers.SAM": lambda cls: cls(Adam(0.05)),
    "regularization.DropoutSchedule": lambda cls: cls.early(0.2, epochs=4),
    "pretraining.GAN": lambda cls: cls(net(8, 1), net(3, 8), seed=7),
    "pretraining.RestrictedBoltzmann": lambda cls: cls(4, seed=7),
    "pretraining.Transposed": lambda cls: cls(built_dense()),
}

# The hidden layers in which an initializer works that is not for a Dense kernel.
HIDDEN = {
    "initializers.DeltaOrthogonal": lambda **kernel: [
        keras.layers.Reshape((8, 1)),
        keras.layers.Conv1D(6, 3, padding="same", activation="tanh", **kernel),
        keras.layers.Flatten(),
    ],
}


def with_live_dropout(**kernel):
    """Returns hidden layers with a rate that a callback may set."""
    return [keras.layers.Dense(6, activation="tanh"), kerastools.layers.Dropout(0.1, seed=7)]


HIDDEN |= {
    "regularization.AdaptiveDropout": with_live_dropout,
    "regularization.DropoutSchedule": with_live_dropout,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A class that a room exports."""

    room: str
    cls: type

    @property
    def name(self) -> str:
        return f"{self.room}.{self.cls.__name__}"

    def make(self):
        return SAMPLES.get(self.name, lambda cls: cls())(self.cls)


def rooms():
    """Yields the name and module of every public room."""
    for info in pkgutil.iter_modules(kerastools.__path__):
        if not info.name.startswith("_") and info.name != "cli":
            yield info.name, importlib.import_module(f"kerastools.{info.name}")


def cases() -> list[Case]:
    """Returns every class that a room exports, and every other that a saved file may name."""
    exported = [
        Case(name, getattr(room, exported))
        for name, room in rooms()
        for exported in room.__all__
        if inspect.isclass(getattr(room, exported))
    ]
    known = {case.cls for case in exported}
    registered = [
        Case(cls.__module__.split(".")[1], cls)
        for name, cls in keras.saving.get_custom_objects().items()
        if name.startswith("kerastools>") and cls.__module__.startswith("kerastools.")
        if inspect.isclass(cls)
    ]
    return exported + [case for case in registered if case.cls not in known]


KINDS = {
    "initializer": keras.initializers.Initializer,
    "constraint": keras.constraints.Constraint,
    "model": keras.Model,
    "layer": keras.layers.Layer,
    "optimizer": keras.optimizers.Optimizer,
    "schedule": keras.optimizers.schedules.LearningRateSchedule,
    "loss": keras.losses.Loss,
    "callback": keras.callbacks.Callback,
}


# What works on a model, is no part of it and is never saved.
PROCEDURES = {"transfer.FeatureCache"}


def kind_of(case: Case) -> str:
    """Returns what kind of part a class is, or fails if no contract covers it."""
    if case.name in PROCEDURES:
        return "procedure"
    if any(base.__module__.startswith("keras_tuner") for base in case.cls.__mro__):
        return "tuner"
    if dataclasses.is_dataclass(case.cls):
        return "record"
    for kind, base in KINDS.items():
        if issubclass(case.cls, base):
            return kind
    raise AssertionError(f"{case.name} is exported, but no contract covers a class of its kind.")


CASES = cases()
PARTS = [case for case in CASES if kind_of(case) not in ("record", "tuner", "procedure")]
SAVED = [case for case in PARTS if kind_of(case) != "callback"]
OPTIMIZERS = [case for case in PARTS if kind_of(case) == "optimizer"]


def named(cases):
    return [pytest.param(case, id=case.name) for case in cases]


def data():
    rng = np.random.default_rng(5)
    return rng.normal(size=(12, 8)).astype("float32"), rng.integers(0, 3, size=12)


def zeros_and_ones():
    return (data()[0] > 0).astype("float32")


def model_with(case: Case) -> keras.Model:
    """Returns a small compiled model in which a sample of the class does its work."""
    keras.utils.set_random_seed(11)
    kind = kind_of(case)
    part = case.make()
    if kind == "model":
        part.compile(keras.optimizers.SGD(0.05))
        part.fit(zeros_and_ones(), epochs=1, verbose=0)
        return part
    kernel = {f"kernel_{kind}": part} if kind in ("initializer", "constraint") else {}
    layers = [keras.layers.Dense(6, activation="tanh", name="hidden", **kernel)]
    layers = HIDDEN.get(case.name, lambda **kernel: layers)(**kernel)
    if kind == "layer":
        rank = int(case.cls.__name__[-2]) if case.cls.__name__.endswith("D") else 0
        if rank:
            shape = (2, *(1,) * (rank - 1), 4)
            layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Reshape(shape)]
        layers.append(part)
        if rank:
            layers.append(keras.layers.Flatten())
    layers.append(keras.layers.Dense(3, activation="softmax", name="head"))
    model = keras.Sequential([keras.Input((8,)), *layers])
    rate = part if kind == "schedule" else 0.05
    optimizer = part if kind == "optimizer" else keras.optimizers.SGD(rate)
    model.compile(optimizer, part if kind == "loss" else "sparse_categorical_crossentropy")
    return model


def fit(model: keras.Model, case: Case, epochs: int = 2) -> list[np.ndarray]:
    """Trains without shuffling and returns the weights."""
    epochs = 5 if kind_of(case) == "callback" else epochs  # Some begin late.
    callbacks = [case.make()] if kind_of(case) == "callback" else []
    rows = [zeros_and_ones()] if kind_of(case) == "model" else data()
    validation = {"validation_data": data()} if case.room == "regularization" else {}
    model.fit(
        *rows,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        **validation,
    )
    return model.get_weights()


@functools.cache
def trained(case: Case) -> tuple[keras.Model, float, list[np.ndarray]]:
    """Returns a model with a sample of the class, its loss before training and weights after.

    Compiling is what these tests spend their time on, so that several share the model.
    """
    model = model_with(case)
    before = np.nan if kind_of(case) == "model" else model.evaluate(*data(), verbose=0)
    return model, before, fit(model, case)


def check_config(case: Case) -> None:
    part = case.make()
    config = json.loads(json.dumps(part.get_config()))
    twin = case.cls.from_config(config)
    assert json.loads(json.dumps(twin.get_config())) == config, case.name
    if kind_of(case) != "callback":
        name = keras.saving.get_registered_name(case.cls)
        assert name == f"kerastools>{case.cls.__name__}", f"{case.name} is not registered"


def check_compiled_equals_eager(case: Case) -> None:
    model = model_with(case)
    model.run_eagerly = True
    for compiled, eager in zip(trained(case)[2], fit(model, case), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=2e-5, atol=2e-6, err_msg=case.name)


def check_mixed_bfloat16(case: Case) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = model_with(case)
    before = model.get_weights()
    after = fit(model, case)
    assert all(np.isfinite(w).all() for w in after), case.name
    assert any((b != a).any() for b, a in zip(before, after, strict=True)), f"{case.name}: no step"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}, case.name
    assert model.compute_dtype == "bfloat16"


def check_fit_learns(case: Case) -> None:
    model, before, _ = trained(case)
    if kind_of(case) == "callback":
        # It may have another aim than training on, such as finding a learning rate.
        fell = np.isfinite(after := model.evaluate(*data(), verbose=0))
    else:
        fit(model, case, epochs=10)
        fell = (after := model.evaluate(*data(), verbose=0)) < before
    assert fell, f"{case.name}: the loss went from {before} to {after}"


def check_state_resumes(case: Case, path: Path) -> None:
    x, y = data()
    straight = model_with(case)
    for _ in range(3):
        straight.train_on_batch(x, y)
    straight.save(path)
    resumed = keras.models.load_model(path)
    for _ in range(3):
        straight.train_on_batch(x, y)
        resumed.train_on_batch(x, y)
    assert int(resumed.optimizer.iterations) == int(straight.optimizer.iterations) > 2, case.name
    states = (
        model.get_weights() + [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
        for model in (straight, resumed)
    )
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=case.name)


# What other rooms call `x`, `directory`, `path`, `model` and `seed`.
SYNONYMS = {"data", "samples", "folder", "backup", "file", "filename", "net", "source"}


def check_names(name: str, signature: inspect.Signature) -> None:
    """A thing that several rooms take has one name, and a seed is new each time by default."""
    assert not SYNONYMS & signature.parameters.keys(), name
    seed = signature.parameters.get("seed")
    # `tune` holds rows out by its seed, and must hold out the same when a search goes on.
    if seed is not None and name not in ("decorrelated_seed", "tune"):
        assert seed.default is None, f"{name} has seed={seed.default}"


def check_record(case: Case) -> None:
    assert case.cls.__dataclass_params__.frozen, f"{case.name} is not frozen"


LOADER = """
import sys
import numpy as np, keras
import kerastools
x = np.load(sys.argv[1] + "/x.npy")
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras")
    np.save(f"{sys.argv[1]}/{name}.npy", keras.ops.convert_to_numpy(model(x, training=False)))
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Outputs of a sample of each class, before saving and in one fresh process after it."""
    folder = tmp_path_factory.mktemp("saved")
    x, _ = data()
    np.save(folder / "x.npy", x)
    before = {}
    for case in SAVED:
        model, *_ = trained(case)
        before[case.name] = keras.ops.convert_to_numpy(model(x, training=False))
        model.save(folder / f"{case.name}.keras")
    subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), *before],
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return {name: (want, np.load(folder / f"{name}.npy")) for name, want in before.items()}


@pytest.mark.parametrize("case", named(PARTS))
def test_config_round_trip(case):
    check_config(case)


@pytest.mark.parametrize("case", named(SAVED))
def test_saved_model_loads_in_a_fresh_process_with_equal_outputs(case, reloaded):
    want, got = reloaded[case.name]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


STEPPING = [case for case in PARTS if kind_of(case) in ("layer", "optimizer")]


@pytest.mark.parametrize("case", named(STEPPING))
def test_compiled_equals_eager(case):
    check_compiled_equals_eager(case)


@pytest.mark.tensorflow  # These run alike on both; eager steps take JAX long.
@pytest.mark.parametrize("case", named([c for c in PARTS if c not in STEPPING]))
def test_beside_any_layer_compiled_equals_eager(case):
    check_compiled_equals_eager(case)


@pytest.mark.tensorflow  # JAX would compile every model once more for Keras's own policy.
@pytest.mark.parametrize("case", named(PARTS))
def test_mixed_bfloat16_trains(case):
    check_mixed_bfloat16(case)


@pytest.mark.parametrize("case", named([c for c in PARTS if kind_of(c) != "model"]))
def test_fit_learns(case):
    check_fit_learns(case)


@pytest.mark.parametrize("case", named(OPTIMIZERS))
def test_saved_and_loaded_optimizer_continues_bitwise(case, tmp_path):
    check_state_resumes(case, tmp_path / "model.keras")


@pytest.mark.parametrize("case", named([c for c in CASES if kind_of(c) == "record"]))
def test_records_are_frozen(case):
    check_record(case)


@pytest.mark.parametrize("case", named(CASES))
def test_what_prints_as_a_table_does_so_in_a_notebook(case):
    own = [base for base in case.cls.__mro__ if base.__module__.startswith("kerastools.")]
    if any("__str__" in vars(base) for base in own):
        assert case.cls.__repr__ is Printed.__repr__, case.name
        assert case.cls._repr_html_ is Printed._repr_html_, case.name
        assert hasattr(case.cls, "to_dict") or hasattr(case.cls, "get_config"), case.name


@pytest.mark.parametrize("case", named([c for c in CASES if hasattr(c.cls, "plot")]))
def test_plot_takes_a_path_or_axes(case):
    first, *others = list(inspect.signature(case.cls.plot).parameters.values())[1:]
    assert (first.name, first.default) == ("target", None), case.name
    assert all(p.default is not inspect.Parameter.empty for p in others), case.name


@pytest.mark.parametrize("case", named([c for c in CASES if kind_of(c) != "record"]))
def test_one_thing_has_one_name_in_all_rooms(case):
    check_names(case.name, inspect.signature(case.cls))


FUNCTIONS = [
    pytest.param(value, id=f"{name}.{exported}")
    for name, room in rooms()
    for exported in room.__all__
    if inspect.isfunction(value := getattr(room, exported))
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_argument_has_one_name_in_all_rooms(function):
    check_names(function.__name__, inspect.signature(function))


def test_no_class_that_keras_may_save_is_left_out():
    enrolled = {case.cls for case in CASES}
    savable = tuple(base for kind, base in KINDS.items() if kind != "callback")
    for _, room in rooms():
        for info in pkgutil.walk_packages(getattr(room, "__path__", []), f"{room.__name__}."):
            module = importlib.import_module(info.name)
            for name, cls in inspect.getmembers(module, inspect.isclass):
                own = cls.__module__ == module.__name__ and not name.startswith("_")
                if own and issubclass(cls, savable):
                    # A base of classes that have one needs none.
                    has_contract = any(issubclass(other, cls) for other in enrolled)
                    assert has_contract, f"{module.__name__}.{name} has no contract"


class Unregistered(keras.layers.Layer):
    """A layer someone exported but forgot to register."""

    def call(self, x):
        return x


class Thing:
    """A class of a kind that no contract knows."""


class Forgetful(keras.optimizers.SGD):
    """An optimizer whose state is lost on saving."""

    def save_own_variables(self, store):
        store["0"] = np.zeros(())


def test_a_class_that_breaks_the_contract_fails():
    with pytest.raises(AssertionError, match="not registered"):
        check_config(Case("layers", Unregistered))
    with pytest.raises(AssertionError, match="no contract covers"):
        kind_of(Case("layers", Thing))


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_an_optimizer_that_loses_its_state_fails(tmp_path):
    with keras.saving.custom_object_scope({"Forgetful": Forgetful}):
        SAMPLES["optimizers.Forgetful"] = lambda cls: cls(0.1, momentum=0.9)
        with pytest.raises(AssertionError):
            check_state_resumes(Case("optimizers", Forgetful), tmp_path / "model.keras")
