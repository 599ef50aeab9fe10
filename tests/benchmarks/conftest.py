from tests.service.conftest import recorder

__all__ = ["recorder"]
