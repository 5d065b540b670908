"""The checker of shapes and types in annotations, for `pytest --jaxtyping-packages=smoothjax,annotations.check`.

An integer is a float here, as for Python's own type checkers.
"""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
