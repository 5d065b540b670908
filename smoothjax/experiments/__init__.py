"""Experiments: configuration in, labelled result out."""

from ._compare import compare as compare
from ._compare import compare_mechanisms as compare_mechanisms
from ._comparison import Comparison as Comparison
from ._data import train_and_held_out as train_and_held_out
from ._settings import CompareSettings as CompareSettings
