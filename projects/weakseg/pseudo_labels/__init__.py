"""Run any head over a data set and write what it makes of each image as files, restartable, over all processes."""

from weakseg.pseudo_labels.files import RESULT_FILES, ResultFile
from weakseg.pseudo_labels.run import make_pseudo_labels

__all__ = ["RESULT_FILES", "ResultFile", "make_pseudo_labels"]
