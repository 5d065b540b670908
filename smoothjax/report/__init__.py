"""Comparisons as files: labelled results, figures, and HTML pages that hold everything; of one comparison, or of several.

What turns results and figures into pages may enter.
"""

from ._comparison import save as save
from ._side_by_side import side_by_side as side_by_side
