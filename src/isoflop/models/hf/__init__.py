"""Published models in Hugging Face's layout, in and out.

- ``config``: what a ``config.json`` says, checked; ``rope``: its rotary positions.
- ``layouts``: how a tensor of theirs holds parameters of ours.
- ``family``, ``llama``, ``gpt2``, ``gpt_neox``: the families, each from its configuration to our architecture and back.
- ``families``: which family a directory is of, and which one can hold a model of ours.
- ``directory``: reading; ``export``: writing.
"""
