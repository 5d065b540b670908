"""Flows of denoisers: probability flow, reverse SDE, samples and log-likelihoods."""

from .._noise import initial_noise as initial_noise
from ._adapted_grid import adapted_grid as adapted_grid
from ._exponential import ExponentialMultistep as ExponentialMultistep
from ._gaussian_flow import gaussian_flow as gaussian_flow
from ._gaussian_flow import gaussian_sampler as gaussian_sampler
from ._gaussian_flow import gaussian_sampler_bias as gaussian_sampler_bias
from ._gaussian_flow import gaussian_sampler_factors as gaussian_sampler_factors
from ._gaussian_flow import gaussian_sampler_law as gaussian_sampler_law
from ._integration import FlowSolution as FlowSolution
from ._likelihood import LikelihoodSolution as LikelihoodSolution
from ._likelihood import likelihood_solution as likelihood_solution
from ._likelihood import log_likelihood as log_likelihood
from ._piecewise_linear_flow import piecewise_linear_flow as piecewise_linear_flow
from ._probability_flow import flow as flow
from ._probability_flow import flow_solution as flow_solution
from ._replay import Replay as Replay
from ._replay import replay as replay
from ._reverse_sde import reverse_sde as reverse_sde
from ._sampling import initial_state as initial_state
from ._sampling import sample as sample
from ._terminal import terminal_mismatch_bound as terminal_mismatch_bound
