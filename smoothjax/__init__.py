"""What would a diffusion model trained on a finite data set generate, and which mechanism explains it?"""

from . import _command_start as _command_start  # isort: split

from importlib.metadata import PackageNotFoundError, version

from . import datasets as datasets
from . import gaussian as gaussian
from . import interop as interop
from . import learning as learning
from . import measures as measures
from . import mechanisms as mechanisms
from . import parametrization as parametrization
from . import regimes as regimes
from . import smoothing as smoothing
from . import training_dynamics as training_dynamics
from . import variance as variance
from ._doctor import Diagnosis as Diagnosis
from ._doctor import doctor as doctor
from ._jax.compilation import enable_compilation_cache as enable_compilation_cache
from ._jax.compiler import warn_of_faulty_release as _warn_of_faulty_release
from .denoisers import AbstractDenoiser as AbstractDenoiser
from .denoisers import AbstractPosteriorDenoiser as AbstractPosteriorDenoiser
from .denoisers import BoxSmoothedDenoiser as BoxSmoothedDenoiser
from .denoisers import DualGaussianDenoiser as DualGaussianDenoiser
from .denoisers import EmpiricalDenoiser as EmpiricalDenoiser
from .denoisers import EquivariantLocalDenoiser as EquivariantLocalDenoiser
from .denoisers import GaussianDenoiser as GaussianDenoiser
from .denoisers import GaussianSmoothedDenoiser as GaussianSmoothedDenoiser
from .denoisers import GaussianSmoothedLineDenoiser as GaussianSmoothedLineDenoiser
from .denoisers import GuidedDenoiser as GuidedDenoiser
from .denoisers import LineDenoiser as LineDenoiser
from .denoisers import LocalDenoiser as LocalDenoiser
from .denoisers import MixtureDenoiser as MixtureDenoiser
from .denoisers import NoiseUnconditionedDenoiser as NoiseUnconditionedDenoiser
from .denoisers import PatchCompositeDenoiser as PatchCompositeDenoiser
from .denoisers import PiecewiseLinearDenoiser as PiecewiseLinearDenoiser
from .denoisers import RescaledDenoiser as RescaledDenoiser
from .denoisers import ScheduledDenoiser as ScheduledDenoiser
from .denoisers import ShardedDenoiser as ShardedDenoiser
from .denoisers import StreamedDenoiser as StreamedDenoiser
from .denoisers import SwitchedDenoiser as SwitchedDenoiser
from .denoisers import TemperedDenoiser as TemperedDenoiser
from .denoisers import TruncatedDenoiser as TruncatedDenoiser
from .denoisers import WidenedDenoiser as WidenedDenoiser
from .denoisers import WienerMaskDenoiser as WienerMaskDenoiser
from .denoisers import padded_to as padded_to
from .denoisers import posterior_covariance as posterior_covariance
from .denoisers import posterior_covariance_product as posterior_covariance_product
from .denoisers import posterior_variance as posterior_variance
from .denoisers import proxy_score_covariance as proxy_score_covariance
from .denoisers import score as score
from .experiments import CompareSettings as CompareSettings
from .experiments import Comparison as Comparison
from .experiments import ExplainSettings as ExplainSettings
from .experiments import Explanation as Explanation
from .experiments import compare as compare
from .experiments import compare_mechanisms as compare_mechanisms
from .experiments import explain as explain
from .flows import ExponentialMultistep as ExponentialMultistep
from .flows import FlowSolution as FlowSolution
from .flows import LikelihoodSolution as LikelihoodSolution
from .flows import Replay as Replay
from .flows import adapted_grid as adapted_grid
from .flows import flow as flow
from .flows import flow_solution as flow_solution
from .flows import gaussian_flow as gaussian_flow
from .flows import gaussian_sampler as gaussian_sampler
from .flows import gaussian_sampler_bias as gaussian_sampler_bias
from .flows import gaussian_sampler_factors as gaussian_sampler_factors
from .flows import gaussian_sampler_law as gaussian_sampler_law
from .flows import initial_noise as initial_noise
from .flows import initial_state as initial_state
from .flows import likelihood_solution as likelihood_solution
from .flows import log_likelihood as log_likelihood
from .flows import piecewise_linear_flow as piecewise_linear_flow
from .flows import replay as replay
from .flows import reverse_sde as reverse_sde
from .flows import sample as sample
from .flows import terminal_mismatch_bound as terminal_mismatch_bound
from .grids import edm_grid as edm_grid
from .grids import log_uniform_grid as log_uniform_grid
from .measures import Estimate as Estimate
from .measures import PatchCalibration as PatchCalibration
from .measures import calibrate_patch_size as calibrate_patch_size
from .measures import denoiser_rmse as denoiser_rmse
from .measures import determination_r2 as determination_r2
from .measures import effective_neighbours as effective_neighbours
from .measures import frechet_distance as frechet_distance
from .measures import gaussianity_index as gaussianity_index
from .measures import generalization_score as generalization_score
from .measures import linearity_comparison as linearity_comparison
from .measures import linearity_score as linearity_score
from .measures import memorization_fraction as memorization_fraction
from .measures import nearest_neighbours as nearest_neighbours
from .measures import normalised_mse as normalised_mse
from .measures import pearson_r2 as pearson_r2
from .measures import rmse_curve as rmse_curve
from .measures import same_noise_similarity as same_noise_similarity
from .measures import sliced_wasserstein as sliced_wasserstein
from .measures import strong_generalization as strong_generalization
from .measures import wasserstein_1d as wasserstein_1d
from .processes import EDM as EDM
from .processes import AbstractProcess as AbstractProcess
from .processes import Brownian as Brownian
from .processes import FlowMatching as FlowMatching
from .processes import VarianceExploding as VarianceExploding
from .processes import VariancePreserving as VariancePreserving
from .training_dynamics import TrainedLinearDenoiser as TrainedLinearDenoiser
from .variance import KernelLaw as KernelLaw
from .variance import LinearModelLaw as LinearModelLaw
from .variance import NaiveLaw as NaiveLaw
from .variance import fit_linear as fit_linear
from .variance import semiclassical as semiclassical
from .variance import v_kernel as v_kernel

try:
    __version__ = version("smoothjax")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"

_warn_of_faulty_release()
