"""The event loops that the tests here run on, and examples that are the same on every run and machine."""

from hypothesis import settings

from .loops import run

settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

__all__ = ["run"]
