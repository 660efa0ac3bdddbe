"""The benchmark: this system and its neighbours doing the same work in one run. Start with ``python -m bench``."""
