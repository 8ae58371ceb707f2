"""Parts of the slot ``source``: where text comes from."""
