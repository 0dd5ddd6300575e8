"""What is wrong with a model, found from one training step, and how to mend it."""

from kerastools.diagnosis._change import Change
from kerastools.diagnosis._diagnose import diagnose
from kerastools.diagnosis._diagnosis import Diagnosis
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal
from kerastools.diagnosis._repair import Repair
from kerastools.diagnosis._signal_monitor import SignalMonitor

__all__ = ["Change", "Diagnosis", "Finding", "LayerSignal", "Repair", "SignalMonitor", "diagnose"]
