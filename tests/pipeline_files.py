"""A pipeline that is made in moments."""

DOMAINS = """
name = "domains"
seeds = [1, 2, 3]
tuning_seeds = [9]

[recipe]
model = { name = "transformer", d_model = 16, layers = 2, mixer = { name = "attention", heads = 2 } }
train = { batch = 2, length = 16, evaluations = 1 }
budget = { steps = 4 }
metrics = ["bits_per_byte", "accuracy"]
optimizer = { name = "adamw", lr = 0.01 }

[texts]
old = { name = "pcfg", text_bytes = 6000, heldout_bytes = 300 }
new = { name = "pcfg", text_bytes = 6000, heldout_bytes = 300, rules = { S = { "(SS)" = 0.3, "x" = 0.7 } } }

[stages.base]
recipe = { source = "old" }

[stages.plain]
recipe = { start = "base", source = "new" }

[stages.sfa]
like = "plain"
recipe = { averaging = { name = "sfa", period = 2.0 } }
grid = { "averaging.beta" = [0.2, 0.5, 0.8] }
judged_by = ["old"]

[stages.wise_ft]
merge = { method = "wise_ft", base = "base", models = [{ path = "plain" }], parameters = { alpha = 0.25 } }

[[bars]]
says = "sfa forgets less"
terms = { sfa = 1, plain = -1 }
texts = ["old"]
"""
