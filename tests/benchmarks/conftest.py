from tests.sweeps.conftest import recorder

__all__ = ["recorder"]
