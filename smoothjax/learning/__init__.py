"""Networks that learn a score: architectures, parametrisations, losses, and training of many at once."""

from ._losses import denoising_loss as denoising_loss
from ._losses import line_regression_loss as line_regression_loss
from ._losses import weight_penalty as weight_penalty
from ._networks import NetworkDenoiser as NetworkDenoiser
from ._networks import ReLUNetwork as ReLUNetwork
from ._training import TrainingRun as TrainingRun
from ._training import train as train
from ._training import train_on_line as train_on_line
