"""Forward processes `x_t = alpha_t x_0 + sigma_t z`.

Dividing by `alpha_t` turns every process into `u = x_t / alpha_t = x_0 + noise_level z`, with
`noise_level = sigma_t / alpha_t`. Denoisers and flows work in `(u, noise_level)` only; a process
translates between its own time `t` and these coordinates.

| process              | drift          | diffusion           | alpha_t   | noise level       |
|----------------------|----------------|---------------------|-----------|-------------------|
| `VariancePreserving` | -beta(t) x / 2 | sqrt(beta(t))       | e^{-B/2}  | sqrt(e^B - 1)     |
| `VarianceExploding`  | 0              | sigma_t sqrt(2 R)   | 1         | sigma_min e^{R t} |
| `EDM`                | 0              | sqrt(2 t)           | 1         | t                 |
| `Brownian`           | 0              | 1                   | 1         | sqrt(t)           |
| `FlowMatching`       | -x / (1 - t)   | sqrt(2 t / (1 - t)) | 1 - t     | t / (1 - t)       |

with `B(t) = int_0^t beta` and `R = log(sigma_max / sigma_min)`. Small `t` is data, large `t` noise.

Methods take a scalar `t` (or an array, elementwise) and return the dtype of their argument.
Concrete arguments outside the domain raise `ValueError`; traced ones are not checked, so that the
methods cost nothing extra in a compiled loop.
"""

from ._abstract import AbstractProcess as AbstractProcess
from ._abstract import AbstractUnscaledProcess as AbstractUnscaledProcess
from ._flow_matching import FlowMatching as FlowMatching
from ._unscaled import EDM as EDM
from ._unscaled import Brownian as Brownian
from ._unscaled import VarianceExploding as VarianceExploding
from ._variance_preserving import VariancePreserving as VariancePreserving
