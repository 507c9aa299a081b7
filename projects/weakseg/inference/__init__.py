"""The views of an image, and prediction with more inputs than an image."""

from weakseg.inference.views import View, plain_view

__all__ = ["View", "plain_view"]
