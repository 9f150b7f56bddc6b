"""What the trainer achieves: accuracy on real images against a control, and speed against timm's own script."""
