"""How a model stands what its holdout does not show: corruption, small movements, attacks, hard examples."""
