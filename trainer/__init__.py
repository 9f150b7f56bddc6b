"""The trainer: turns label sets into the next student, and lets the gate judge it.

Imports the core, PyTorch and timm; never service or worker.
"""
