"""Why it was kept or forgotten: the logit lens, interference of gradients, perplexity of generic text."""
