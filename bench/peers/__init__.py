"""The systems that are compared, one module each. Start with base.py; registry.py lists them."""
