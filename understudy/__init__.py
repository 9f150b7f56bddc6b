"""Understudy: a self-improving image classifier that people run themselves.

The core package: what two programs must agree on. It imports none of ``service``, ``worker`` and
``trainer``, and neither torch nor FastAPI.
"""

__version__ = "0.1.0"
