"""Training sets: point sets of the papers, scikit-learn's digits, arrays and images in files."""

from ._dataset import Dataset as Dataset
from ._digits import digits as digits
from ._load import load as load
from ._load import names as names
from ._point_sets import circle as circle
from ._point_sets import polygon as polygon
from ._point_sets import segment as segment
from ._point_sets import sphere as sphere
from ._point_sets import three_points as three_points
from ._point_sets import two_points as two_points
from ._point_sets import variance_paper_set as variance_paper_set
