"""Less time per step: many training steps in one compiled call, and prediction without overhead."""

from kerastools.acceleration._accelerate import accelerate
from kerastools.acceleration._fast_predict import fast_predict

__all__ = ["accelerate", "fast_predict"]
