"""Experiments: configuration in, labelled result out."""

from ._catalogue import EXPERIMENTS as EXPERIMENTS
from ._catalogue import Experiment as Experiment
from ._catalogue import get_experiment as get_experiment
from ._circle import circle as circle
from ._compare import compare as compare
from ._compare import compare_mechanisms as compare_mechanisms
from ._comparison import Comparison as Comparison
from ._data import train_and_held_out as train_and_held_out
from ._early_stopping import early_stopping as early_stopping
from ._gap_filling import gap_filling as gap_filling
from ._line_in_plane import line_in_plane as line_in_plane
from ._optimality import optimality as optimality
from ._penalty_sweep import penalty_sweep as penalty_sweep
from ._settings import CompareSettings as CompareSettings
from ._target_noise import target_noise as target_noise
from ._two_points import two_points as two_points
