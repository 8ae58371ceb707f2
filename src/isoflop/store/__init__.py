"""What is kept on disk: run directories, checkpoints, metrics, the index, results; tensors (``tensors.py``: torch)."""
