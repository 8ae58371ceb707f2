"""Parts of the slot ``tokenizer``: text to ids and back."""
