"""Profiles: which base model, at which scale, precision and batch. One YAML file each."""
