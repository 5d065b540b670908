"""Generalisation through variance: laws of trained models, their V-kernels and what they make of the flow."""

from ._dynamics import flow_of_models as flow_of_models
from ._features import Features as Features
from ._features import FourierSeries as FourierSeries
from ._features import GaussianBumps as GaussianBumps
from ._features import ProductFeatures as ProductFeatures
from ._kernel_law import KernelDenoiser as KernelDenoiser
from ._kernel_law import KernelLaw as KernelLaw
from ._law import AbstractLaw as AbstractLaw
from ._law import v_kernel as v_kernel
from ._linear import LinearDenoiser as LinearDenoiser
from ._linear import LinearProblem as LinearProblem
from ._linear import RetrainedLaw as RetrainedLaw
from ._linear import train_linear as train_linear
from ._linear_law import LinearModelLaw as LinearModelLaw
from ._naive import NaiveStrength as NaiveStrength
from ._naive import naive_flow as naive_flow
from ._relative_variance import relative_variance as relative_variance
from ._semiclassical import Semiclassical as Semiclassical
from ._semiclassical import semiclassical as semiclassical
from ._tangent_kernels import EmpiricalTangentKernel as EmpiricalTangentKernel
from ._tangent_kernels import ReLUTangentKernel as ReLUTangentKernel
from ._training_set import DenoisingProblem as DenoisingProblem
from ._training_set import LogUniformLevels as LogUniformLevels
from ._training_set import UniformTimes as UniformTimes
