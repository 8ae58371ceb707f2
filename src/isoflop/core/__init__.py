"""What every other folder may use: recipes, registry, contracts, randomness, digests, files, tables. No torch."""
