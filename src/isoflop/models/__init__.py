"""One decoder Transformer with swappable mixer and feed-forward, its products by hand where that pays."""
