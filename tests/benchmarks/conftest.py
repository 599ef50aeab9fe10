from tests.service.conftest import toy

__all__ = ["toy"]
