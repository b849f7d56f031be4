"""From a stage's declaration to what it trains on: facts (`tasks`), mixing data, tokens and labels (`encoding`)."""
