"""The door between kerastools and plain Keras, both ways."""
