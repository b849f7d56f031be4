"""Runs stages: a recipe's one after the other (local), a sweep's graph on this machine (sweep) or a cluster (slurm)."""
