"""Closed-form denoisers `D(u, sigma)`."""

from ._base import AbstractDenoiser as AbstractDenoiser
from ._base import AbstractPosteriorDenoiser as AbstractPosteriorDenoiser
from ._base import Denoiser as Denoiser
from ._base import posterior_covariance as posterior_covariance
from ._base import posterior_covariance_product as posterior_covariance_product
from ._base import posterior_variance as posterior_variance
from ._base import proxy_score_covariance as proxy_score_covariance
from ._base import score as score
from ._dual_gaussian import DualGaussianDenoiser as DualGaussianDenoiser
from ._empirical import EmpiricalDenoiser as EmpiricalDenoiser
from ._equivariant_local import EquivariantLocalDenoiser as EquivariantLocalDenoiser
from ._gaussian import GaussianDenoiser as GaussianDenoiser
from ._line import LineDenoiser as LineDenoiser
from ._local import LocalDenoiser as LocalDenoiser
from ._mixture import MixtureDenoiser as MixtureDenoiser
from ._patch_composite import PatchCompositeDenoiser as PatchCompositeDenoiser
from ._piecewise_linear import PiecewiseLinearDenoiser as PiecewiseLinearDenoiser
from ._rescaled import RescaledDenoiser as RescaledDenoiser
from ._scheduled import ScheduledDenoiser as ScheduledDenoiser
from ._smoothed import BoxSmoothedDenoiser as BoxSmoothedDenoiser
from ._smoothed import GaussianSmoothedDenoiser as GaussianSmoothedDenoiser
from ._smoothed import GaussianSmoothedLineDenoiser as GaussianSmoothedLineDenoiser
from ._smoothed import NoiseUnconditionedDenoiser as NoiseUnconditionedDenoiser
from ._smoothed import TemperedDenoiser as TemperedDenoiser
from ._switched import SwitchedDenoiser as SwitchedDenoiser
from ._wiener_mask import WienerMaskDenoiser as WienerMaskDenoiser
