"""Generalisation through variance: laws of trained models, their V-kernels and what they make of the flow."""

from ._features import Features as Features
from ._features import FourierSeries as FourierSeries
from ._features import GaussianBumps as GaussianBumps
from ._features import ProductFeatures as ProductFeatures
from ._law import AbstractLaw as AbstractLaw
from ._law import v_kernel as v_kernel
from ._linear import LinearDenoiser as LinearDenoiser
from ._linear import LinearProblem as LinearProblem
from ._linear import LogUniformLevels as LogUniformLevels
from ._linear import UniformTimes as UniformTimes
from ._linear import train_linear as train_linear
from ._linear_law import LinearModelLaw as LinearModelLaw
from ._relative_variance import relative_variance as relative_variance
from ._semiclassical import Semiclassical as Semiclassical
from ._semiclassical import semiclassical as semiclassical
