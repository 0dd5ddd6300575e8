"""A model that Keras 2 saved as .h5: Keras 3 loads it, and it folds."""

from pathlib import Path

import keras
import numpy as np
import pytest

from kerastools.folding import fold_batch_norm
from tests.folding.networks import num_batch_norms, outputs

# What Keras 2 predicted when it wrote the file; assets/README.md has the program.
PREDICTED = [
    [-0.0577702522277832, 1.9528961181640625, 0.9978269338607788],
    [-0.0458451509475708, 1.9566075801849365, 0.9871510863304138],
]


@pytest.mark.tensorflow  # Reading files is the same on both.
def test_a_model_saved_by_keras_2_folds_and_predicts_what_keras_2_predicted():
    path = Path(__file__).parent / "assets" / "keras2.h5"
    model = keras.models.load_model(path, compile=False)
    folded, report = fold_batch_norm(model, return_report=True)
    into = {o.layer: o.into for o in report.outcomes}
    assert into == {
        "stem_bn": "stem",
        "groups_bn": "groups",
        "point_bn": "point",
        "hidden_bn": "class",
    }
    assert num_batch_norms(folded) == 0
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    for net in (model, folded):
        np.testing.assert_allclose(outputs(net, [x])[0], PREDICTED, rtol=0, atol=1e-5)
