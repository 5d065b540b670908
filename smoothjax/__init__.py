"""What would a diffusion model trained on a finite data set generate, and which mechanism explains it?"""

from importlib.metadata import PackageNotFoundError, version

from . import datasets as datasets
from . import learning as learning
from . import measures as measures
from . import mechanisms as mechanisms
from . import smoothing as smoothing
from .denoisers import AbstractDenoiser as AbstractDenoiser
from .denoisers import AbstractPosteriorDenoiser as AbstractPosteriorDenoiser
from .denoisers import BoxSmoothedDenoiser as BoxSmoothedDenoiser
from .denoisers import EmpiricalDenoiser as EmpiricalDenoiser
from .denoisers import GaussianDenoiser as GaussianDenoiser
from .denoisers import GaussianSmoothedDenoiser as GaussianSmoothedDenoiser
from .denoisers import GaussianSmoothedLineDenoiser as GaussianSmoothedLineDenoiser
from .denoisers import LineDenoiser as LineDenoiser
from .denoisers import MixtureDenoiser as MixtureDenoiser
from .denoisers import NoiseUnconditionedDenoiser as NoiseUnconditionedDenoiser
from .denoisers import PiecewiseLinearDenoiser as PiecewiseLinearDenoiser
from .denoisers import SwitchedDenoiser as SwitchedDenoiser
from .denoisers import TemperedDenoiser as TemperedDenoiser
from .denoisers import posterior_covariance as posterior_covariance
from .denoisers import posterior_covariance_product as posterior_covariance_product
from .denoisers import posterior_variance as posterior_variance
from .denoisers import proxy_score_covariance as proxy_score_covariance
from .denoisers import score as score
from .experiments import CompareSettings as CompareSettings
from .experiments import Comparison as Comparison
from .experiments import compare as compare
from .experiments import compare_mechanisms as compare_mechanisms
from .flows import FlowSolution as FlowSolution
from .flows import LikelihoodSolution as LikelihoodSolution
from .flows import flow as flow
from .flows import flow_solution as flow_solution
from .flows import gaussian_flow as gaussian_flow
from .flows import initial_noise as initial_noise
from .flows import likelihood_solution as likelihood_solution
from .flows import log_likelihood as log_likelihood
from .flows import piecewise_linear_flow as piecewise_linear_flow
from .flows import reverse_sde as reverse_sde
from .flows import sample as sample
from .flows import terminal_mismatch_bound as terminal_mismatch_bound
from .grids import edm_grid as edm_grid
from .grids import log_uniform_grid as log_uniform_grid
from .measures import Estimate as Estimate
from .measures import denoiser_rmse as denoiser_rmse
from .measures import determination_r2 as determination_r2
from .measures import effective_neighbours as effective_neighbours
from .measures import frechet_distance as frechet_distance
from .measures import linearity_score as linearity_score
from .measures import memorization_fraction as memorization_fraction
from .measures import nearest_neighbours as nearest_neighbours
from .measures import pearson_r2 as pearson_r2
from .measures import rmse_curve as rmse_curve
from .measures import sliced_wasserstein as sliced_wasserstein
from .measures import wasserstein_1d as wasserstein_1d
from .processes import EDM as EDM
from .processes import AbstractProcess as AbstractProcess
from .processes import Brownian as Brownian
from .processes import FlowMatching as FlowMatching
from .processes import VarianceExploding as VarianceExploding
from .processes import VariancePreserving as VariancePreserving

try:
    __version__ = version("smoothjax")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"
