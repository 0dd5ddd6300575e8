"""The only place that touches names of Keras, keras-tuner and TensorFlow that are not public."""
