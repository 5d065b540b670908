"""The mechanisms that can be compared by name: each says how a training set becomes a denoiser, and at which strength.

What makes denoisers of a training set under a name may enter.
"""

from . import _built_in as _built_in  # isort: skip
from . import _of_images as _of_images  # isort: skip
from . import _of_kernels as _of_kernels  # isort: skip
from ._choice import CRITERIA as CRITERIA
from ._choice import FEWEST_TO_CHOOSE as FEWEST_TO_CHOOSE
from ._choice import StrengthChoice as StrengthChoice
from ._choice import build as build
from ._choice import choose_strength as choose_strength
from ._choice import default_levels as default_levels
from ._colours import Look as Look
from ._colours import colour_of as colour_of
from ._colours import looks_of as looks_of
from ._mechanism import Mechanism as Mechanism
from ._mechanism import Strength as Strength
from ._mechanism import defaults as defaults
from ._mechanism import get as get
from ._mechanism import names as names
from ._mechanism import register as register
