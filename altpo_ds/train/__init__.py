"""The loop: training, tracking, checkpoints and resume."""
