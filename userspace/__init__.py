"""The program: transport, tunnel, client, concentrator and command line."""

__version__ = "0.1.0"
