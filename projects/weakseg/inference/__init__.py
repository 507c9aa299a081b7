"""The views of an image, and prediction on one image."""

from weakseg.inference.views import View, plain_view

__all__ = ["View", "plain_view"]
