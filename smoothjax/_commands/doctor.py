"""`smoothjax doctor`, which needs no more than the library itself: it looks at installations without extras too."""

import dataclasses

from .. import _doctor


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Look at this installation: versions, devices, precision, a check of numbers and one of speed."""

    def run(self) -> int:
        """Prints what was found; returns 1 where something is wrong."""
        diagnosis = _doctor.doctor()
        print(diagnosis)
        return 0 if diagnosis.is_sound else 1
