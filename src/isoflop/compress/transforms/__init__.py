"""Parts of the slot transform: what is done to a trained model's weights."""
