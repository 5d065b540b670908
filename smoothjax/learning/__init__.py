"""Networks that learn a score: architectures, parametrisations, losses, and training of many at once."""

from ._distillation import AffineDenoiser as AffineDenoiser
from ._distillation import LinearDistillation as LinearDistillation
from ._distillation import distill_linear as distill_linear
from ._image_training import load_denoiser as load_denoiser
from ._image_training import train_denoiser as train_denoiser
from ._losses import denoising_loss as denoising_loss
from ._losses import line_regression_loss as line_regression_loss
from ._losses import weight_penalty as weight_penalty
from ._networks import NetworkDenoiser as NetworkDenoiser
from ._networks import ReLUNetwork as ReLUNetwork
from ._noise_conditioned import ConvolutionalArchitecture as ConvolutionalArchitecture
from ._noise_conditioned import ConvolutionalNetwork as ConvolutionalNetwork
from ._noise_conditioned import MLPArchitecture as MLPArchitecture
from ._noise_conditioned import ResidualMLP as ResidualMLP
from ._preconditioned import P_MEAN as P_MEAN
from ._preconditioned import P_STD as P_STD
from ._preconditioned import PreconditionedDenoiser as PreconditionedDenoiser
from ._preconditioned import Preconditioning as Preconditioning
from ._preconditioned import edm_loss as edm_loss
from ._training import TrainingRun as TrainingRun
from ._training import train as train
from ._training import train_on_line as train_on_line
