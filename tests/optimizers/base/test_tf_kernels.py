"""Fails when TensorFlow moves the mark by which a trace for XLA is known."""

import pytest

from kerastools.optimizers._base import tf_kernels

pytestmark = pytest.mark.tensorflow


def test_a_trace_for_xla_is_known_at_any_depth():
    import tensorflow as tf

    seen = {}

    def note(name):
        seen[name] = tf_kernels.compiles_with_xla()
        return tf.constant(0)

    note("eager")
    tf.function(lambda: note("graph"))()
    tf.function(lambda: note("xla"), jit_compile=True)()
    inner = tf.function(lambda: note("inside"))
    tf.function(lambda: inner(), jit_compile=True)()
    compiled = tf.function(lambda: note("below"), jit_compile=True)
    tf.function(lambda: compiled())()
    wanted = {"eager": False, "graph": False, "xla": True, "inside": True, "below": True}
    assert seen == wanted
