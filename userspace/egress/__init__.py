"""What the exit may reach and how it gets there: names, rules, the built-in refusals, resolving, dialling, limits."""
