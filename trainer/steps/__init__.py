"""The steps of a generation, as ``trainer.generation`` strings them together: each reads what those before it wrote."""
