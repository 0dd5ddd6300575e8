"""What is wrong with a model, found from one training step."""

from kerastools.diagnosis._diagnose import diagnose
from kerastools.diagnosis._diagnosis import Diagnosis
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal

__all__ = ["Diagnosis", "Finding", "LayerSignal", "diagnose"]
