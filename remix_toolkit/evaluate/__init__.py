"""What can be measured of a model: recall, held-out loss, the logit lens, interference, perplexity, benchmarks."""
