"""What work costs and what was spent: formulas, conventions, budgets, the ledger. Torch only in audit and peak."""
