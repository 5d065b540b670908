"""Measures of what was generated and of how denoisers differ, with standard errors or intervals."""

from ._agreement import determination_r2 as determination_r2
from ._agreement import pearson_r2 as pearson_r2
from ._denoiser_errors import denoiser_rmse as denoiser_rmse
from ._denoiser_errors import rmse_curve as rmse_curve
from ._distances import frechet_distance as frechet_distance
from ._distances import sliced_wasserstein as sliced_wasserstein
from ._distances import wasserstein_1d as wasserstein_1d
from ._effective_neighbours import effective_neighbours as effective_neighbours
from ._estimate import Estimate as Estimate
from ._estimate import wilson_interval as wilson_interval
from ._linearity import LinearityScore as LinearityScore
from ._linearity import linearity_score as linearity_score
from ._memorization import MemorizationFraction as MemorizationFraction
from ._memorization import memorization_fraction as memorization_fraction
from ._neighbours import nearest_neighbours as nearest_neighbours
