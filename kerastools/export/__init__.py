"""Writing models for serving."""

from kerastools.export._export_report import ExportReport
from kerastools.export._export_savedmodel import export_savedmodel

__all__ = ["ExportReport", "export_savedmodel"]
