"""What can be asked for: a recipe's keys, how a file, a profile and overrides become one, and what is refused."""
