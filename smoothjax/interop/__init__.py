"""Denoisers from elsewhere: PyTorch modules and NumPy functions on the host, and networks that predict noise or velocity."""

from ._diffusers import from_diffusers as from_diffusers
from ._diffusers import from_edm as from_edm
from ._host import HostCalls as HostCalls
from ._host import HostFunction as HostFunction
from ._prediction import Network as Network
from ._prediction import PredictionDenoiser as PredictionDenoiser
from ._prediction import as_network as as_network
from ._prediction import from_numpy as from_numpy
from ._schedule import DDPMSchedule as DDPMSchedule
from ._torch import from_torch as from_torch
