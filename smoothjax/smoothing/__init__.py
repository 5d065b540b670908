"""Score smoothing on a line: laws, losses, non-smoothness and the strengths of smoothing they imply."""

from ._fixed_points import stable_fixed_points as stable_fixed_points
from ._functionals import effective_kappa as effective_kappa
from ._functionals import effective_penalty as effective_penalty
from ._functionals import kappa_for_loss as kappa_for_loss
from ._functionals import kappa_for_penalty as kappa_for_penalty
from ._functionals import minimum_mean_square_error as minimum_mean_square_error
from ._functionals import non_smoothness as non_smoothness
from ._functionals import piecewise_linear_non_smoothness as piecewise_linear_non_smoothness
from ._functionals import small_noise_loss as small_noise_loss
from ._functionals import smoothing_loss as smoothing_loss
from ._law import PiecewiseLinearLaw as PiecewiseLinearLaw
from ._line_mixture import quantile_flow as quantile_flow
from ._spread import LineSpread as LineSpread
from ._spread import line_spread as line_spread
from ._tails import first_tail as first_tail
from ._tails import inverse_first_tail as inverse_first_tail
from ._tails import inverse_second_tail as inverse_second_tail
from ._tails import second_tail as second_tail
from ._variational import SmoothestScore as SmoothestScore
from ._variational import penalised_score as penalised_score
from ._variational import smoothest_score as smoothest_score
