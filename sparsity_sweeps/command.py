"""The console script `sweeps`: like `python -m sweeps`, but without the working folder on sys.path."""

__all__ = ["main"]


def main() -> None:
    from service.commands import app  # after the checks of this package, which name a package that hides `service`

    app()
