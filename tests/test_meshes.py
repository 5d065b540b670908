"""Arrays spread over devices, with axes of both kinds, beside one device."""

import pytest
from test_sharded import passes


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [pytest.param("automatic", marks=pytest.mark.exhaustive), "explicit"]
)
def test_four_devices_give_what_one_gives(axes):
    passes("mesh_checks.py", axes)


@pytest.mark.slow
def test_mapped_programs_give_what_one_device_gives():
    passes("mesh_checks.py", "mapped")
