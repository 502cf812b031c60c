"""What some of the versions that the tests run on cannot do themselves."""

from importlib.metadata import version

import pytest

takes_masked = pytest.mark.skipif(
    version("flax") == "0.11.2", reason="its optimizer takes no state of a masked transform"
)
"""For tests in which a transform has moments of some weights only."""
