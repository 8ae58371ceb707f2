"""What is kept on disk: run directories, their lock, checkpoints, metrics, the index, study results. No torch."""
