"""The views of an image, and prediction on one image."""

from weakseg.inference.predictor import WeakPredictor
from weakseg.inference.views import View, plain_view

__all__ = ["View", "WeakPredictor", "plain_view"]
