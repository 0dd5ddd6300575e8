"""Setting the scale of a model's weights before training."""

from kerastools.calibration._calibrate import calibrate
from kerastools.calibration._initialize import initialize

__all__ = ["calibrate", "initialize"]
