"""`python -m sweeps`: the same commands as the console script `sweeps`."""

from service.commands import app

if __name__ == "__main__":
    app()
