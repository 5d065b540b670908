"""When a model memorises, and when it commits: information, collapse, speciation, U-turns and dimension by noise level.

What says at which noise level a training set or a denoiser changes its behaviour may enter.
"""

from ._collapse import Collapse as Collapse
from ._collapse import collapse_level as collapse_level
from ._collapse import collapse_levels_of_points as collapse_levels_of_points
from ._collapse import population_collapse_level as population_collapse_level
from ._curve import InformationCurve as InformationCurve
from ._curve import information_curve as information_curve
from ._curve import noise_levels as noise_levels
from ._dimension import curvature_spectrum as curvature_spectrum
from ._dimension import dimension_of_training_points as dimension_of_training_points
from ._dimension import intrinsic_dimension as intrinsic_dimension
from ._dimension_test import DimensionTest as DimensionTest
from ._dimension_test import dimension_test as dimension_test
from ._information import mutual_information as mutual_information
from ._speciation import class_level as class_level
from ._speciation import speciation_level as speciation_level
from ._u_turn import UTurn as UTurn
from ._u_turn import u_turn as u_turn
