"""Theory of Gaussian models: fitted to finitely many points, far from the data, and their distances."""

from ._far_field import far_field_rmse as far_field_rmse
from ._far_field import third_cumulant_norm as third_cumulant_norm
from ._finite_sample import effective_noise_level as effective_noise_level
from ._finite_sample import excess_risk as excess_risk
from ._finite_sample import expected_gains as expected_gains
from ._finite_sample import fluctuation as fluctuation
from ._finite_sample import independent_fits_rmse as independent_fits_rmse
from ._finite_sample import leading_order_excess_risk as leading_order_excess_risk
from ._guidance import guided_gaussian_law as guided_gaussian_law
from ._independent_maps import independent_maps_rmse as independent_maps_rmse
from ._kurtosis import EllipticalKurtosis as EllipticalKurtosis
from ._kurtosis import elliptical_kurtosis as elliptical_kurtosis
from ._wasserstein import wasserstein_2 as wasserstein_2
