"""What training time does to a denoiser, in closed form: linear models mode by mode, random features by their spectrum.
A model enters here when its training can be solved; networks that are trained in steps live in `learning`."""

from ._drawn_features import DrawnRandomFeatures as DrawnRandomFeatures
from ._drawn_features import RandomFeatureDenoiser as RandomFeatureDenoiser
from ._generated import emergence_time as emergence_time
from ._generated import generated_emergence_time as generated_emergence_time
from ._generated import generated_law as generated_law
from ._generated import generated_variances as generated_variances
from ._linear import TrainedLinearDenoiser as TrainedLinearDenoiser
from ._random_features import FeatureErrors as FeatureErrors
from ._random_features import RandomFeatureLimit as RandomFeatureLimit
