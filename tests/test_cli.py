"""The commands do what the functions do, and their exit codes say whether they did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.cli import main


@pytest.fixture
def saved(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,), name="x"), layers.Dense(3), layers.BatchNormalization(), layers.ReLU()],
        name="net",
    )
    model.layers[1].moving_mean.assign([1.0, -2.0, 3.0])
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def predict(path):
    x = np.random.default_rng(0).normal(size=(5, 4))
    return keras.ops.convert_to_numpy(keras.models.load_model(path)(x))


def test_fold_writes_the_folded_model_and_prints_the_report(saved, tmp_path, capsys):
    output = tmp_path / "folded.keras"
    assert main(["fold", str(saved), str(output)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 batch norms folded" in printed
    assert "outputs equal to" in printed
    assert len(keras.models.load_model(output).layers) == 2
    np.testing.assert_allclose(predict(output), predict(saved), rtol=1e-5, atol=1e-6)


def test_fold_replaces_only_when_asked(saved, capsys):
    before = saved.read_bytes()
    assert main(["fold", str(saved), str(saved)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert saved.read_bytes() == before
    assert main(["fold", str(saved), str(saved), "--overwrite"]) == 0
    assert len(keras.models.load_model(saved).layers) == 2
    assert [p.name for p in saved.parent.iterdir()] == ["model.keras"]


@pytest.mark.tensorflow
def test_export_writes_a_version(saved, tmp_path, capsys):
    target = tmp_path / "served"
    assert main(["export", str(saved), str(target)]) == 0
    assert "1 folded, 0 kept" in capsys.readouterr().out
    assert (target / "1" / "saved_model.pb").exists()
    assert main(["export", str(saved), str(target), "--version", "1"]) == 1
    assert "overwrite=True" in capsys.readouterr().err
    again = ["--version", "1", "--overwrite", "--no-fold", "--no-freeze", "--tolerance", "1e-4"]
    again += ["--warm-up", "1", "8", "--latency", "1"]
    assert main(["export", str(saved), str(target), *again]) == 0
    printed = capsys.readouterr().out
    assert "kept" in printed
    assert "times as fast as model.export" in printed
    assert (target / "1" / "assets.extra" / "tf_serving_warmup_requests").exists()


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=rng.normal(size=(64, 1)).astype("float32"))
    return tmp_path / "data.npz"


def test_diagnose_exits_with_3_where_it_finds_something(data, tmp_path, capsys):
    squashed = [layers.Dense(8, "sigmoid", kernel_initializer="zeros") for _ in range(12)]
    model = keras.Sequential([keras.Input((4,)), *squashed, layers.Dense(1)])
    model.compile("sgd", "mse")
    model.save(tmp_path / "bad.keras")
    assert main(["diagnose", str(tmp_path / "bad.keras"), str(data), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["findings"]


@pytest.mark.tensorflow
def test_diagnose_exits_with_0_where_it_finds_nothing(data, tmp_path, capsys):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, "relu", kernel_initializer="he_normal"),
            layers.Dense(1),
        ]
    )
    model.save(tmp_path / "good.keras")
    arguments = ["diagnose", str(tmp_path / "good.keras"), str(data)]
    assert main([*arguments, "--loss", "mean_squared_error"]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "loss" in capsys.readouterr().err


@pytest.mark.tensorflow
def test_diagnose_takes_an_array_by_name_for_each_of_several_inputs(tmp_path, capsys):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Concatenate()([a, b])))
    model.save(tmp_path / "two.keras")
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(32, n)) for name, n in (("a", 3), ("b", 2), ("y", 1))}
    np.savez(tmp_path / "two.npz", **arrays)
    arguments = ["diagnose", str(tmp_path / "two.keras"), str(tmp_path / "two.npz")]
    assert main([*arguments, "--loss", "mse"]) == 0
    np.savez(tmp_path / "two.npz", a=arrays["a"])
    assert main([*arguments, "--loss", "mse"]) == 1
    assert "the targets as y" in capsys.readouterr().err


BUILDER = """
import keras
from kerastools.layers import Dropout
from kerastools.optimizers import SGD
from kerastools.search import dropout, learning_rate

def build(hp):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), Dropout(dropout(hp)), keras.layers.Dense(1)]
    )
    model.compile(SGD(learning_rate(hp)), "mse")
    return model
"""


@pytest.mark.tensorflow
def test_search_runs_a_builder_by_its_name_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_builder.py").write_text(BUILDER)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    np.savez("data.npz", x=x[:32], y=y[:32], x_val=x[32:], y_val=y[32:])
    command = ["search", "my_builder:build", "data.npz", "--epochs", "2", "--population", "2"]
    files = ["--json", "s.json", "--picture", "s.png", "--tensorboard", "tb", "--model", "m.keras"]
    assert main([*command, "--trials", "2"]) == 0
    assert main([*command, "--trials", "3", *files]) == 0
    printed = capsys.readouterr().out
    assert printed.count("val_loss") > 4
    assert "model = build(hp)" in printed
    report = json.loads((tmp_path / "s.json").read_text())
    assert [t["status"] for t in report["trials"]] == ["COMPLETED"] * 3
    best = min(t["score"] for t in report["trials"])
    loss = keras.models.load_model("m.keras").evaluate(x[32:], y[32:], verbose=0)
    assert loss == pytest.approx(best, rel=1e-5)
    assert (tmp_path / "s.png").stat().st_size > 20_000
    assert len(list((tmp_path / "tb").glob("trial_*"))) == 3


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("json", "must be module:function"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("json:build", "has no 'build'"),
        ("json:loads", "JSON object must be"),
    ],
)
def test_search_says_what_is_wrong_with_the_builder(builder, message, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x=np.ones((8, 3)), y=np.ones(8))
    command = ["search", builder, str(tmp_path / "data.npz"), "--directory", str(tmp_path / "s")]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").rglob("trial_*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fold", "missing.keras", "out.keras"], "there is no file"),
        (["fold", "missing.keras", "out.h5"], "must end in .keras"),
        (["fold", "missing.keras", "none/out.keras"], "there is no directory 'none'"),
        (["export", "missing.keras", "served"], "there is no file"),
        (["diagnose", "missing.keras", "missing.npz"], "missing.npz"),
    ],
)
def test_what_cannot_be_done_exits_with_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["melt"], ["fold"], ["export", "a", "b", "--version", "x"]]
)
def test_a_wrong_command_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: kerastools" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "model"), [("diagnose", "untrained"), ("fold", "trained"), ("export", "trained")]
)
def test_help_shows_an_example(command, model, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: kerastools {command} {model}.keras" in capsys.readouterr().out


@pytest.mark.tensorflow
def test_what_keras_or_tensorflow_raises_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.keras").write_bytes(b"no zip file")
    assert main(["fold", str(tmp_path / "broken.keras"), str(tmp_path / "o.keras")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for error in (AssertionError("untracked\nresource"), AttributeError("x"), KeyError("y")):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(keras.models, "load_model", fail)
        assert main(["export", str(tmp_path / "broken.keras"), str(tmp_path / "served")]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"kerastools export: {type(error).__name__}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.keras"]


def save(tmp_path, *parts, shape=(4,)):
    keras.Sequential([keras.Input(shape, name="x"), *parts]).save(tmp_path / "m.keras")
    return ["fold", str(tmp_path / "m.keras"), str(tmp_path / "folded.keras")]


def test_fold_compares_on_a_sample_and_says_where_it_cannot(tmp_path, capsys):
    command = save(
        tmp_path, layers.Dense(2), layers.BatchNormalization(), layers.UnitNormalization()
    )
    assert main(command) == 0
    assert "outputs equal to" in capsys.readouterr().out
    rows = np.random.default_rng(0).normal(size=(50, 4))
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", x=rows, y=rows)
    for name in ("rows.npy", "rows.npz"):
        assert main([*command, "--overwrite", "--sample", str(tmp_path / name)]) == 0
        assert "outputs equal to" in capsys.readouterr().out
    np.save(tmp_path / "rows.npy", rows[:, :3])
    assert main([*command, "--overwrite", "--sample", str(tmp_path / "rows.npy")]) == 1
    assert "needs sample to be inputs" in capsys.readouterr().err


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("always::kerastools.KerastoolsNotice")
def test_fold_does_not_print_nan(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.layers[0].bias.assign([np.nan, 0.0])
    model.save(tmp_path / "m.keras")
    command = ["fold", str(tmp_path / "m.keras"), str(tmp_path / "folded.keras")]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out
    assert "were not compared" in printed.err
    np.save(tmp_path / "rows.npy", np.ones((2, 4)))
    assert main([*command, "--overwrite", "--sample", str(tmp_path / "rows.npy")]) == 1
    assert "NaN or infinity" in capsys.readouterr().err


OWN_LAYER = """
import keras

@keras.saving.register_keras_serializable("mine")
class Scale(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.mark.tensorflow
def test_layers_of_ones_own_are_imported(tmp_path):
    (tmp_path / "my_layers.py").write_text(OWN_LAYER)
    code = (
        "import keras, my_layers\n"
        "keras.Sequential([keras.Input((4,)), my_layers.Scale()]).save('m.keras')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "kerastools_cli", "export", "m.keras", "served"]
    for options, code in (([], 1), (["--import", "my_layers"], 0)):
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, env=env
        )
        assert done.returncode == code
        assert len(done.stderr.strip().splitlines()) == code, done.stderr


def test_help_and_version_take_no_backend():
    for option in ("--help", "--version"):
        code = (
            "import sys, kerastools_cli\n"
            "try:\n"
            f"    kerastools_cli.main([{option!r}])\n"
            "except SystemExit as stop:\n"
            "    assert stop.code == 0\n"
            "assert not {'keras', 'kerastools', 'tensorflow', 'jax', 'numpy'} & set(sys.modules)\n"
        )
        root = Path(__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
        )
        assert "kerastools" in done.stdout


@pytest.mark.tensorflow
def test_runs_as_a_module(saved, tmp_path):
    command = [
        sys.executable,
        "-m",
        "kerastools.cli",
        "fold",
        str(saved),
        str(tmp_path / "o.keras"),
    ]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert "batch norms folded" in done.stdout
