"""Runs the graph of stages: here in this process, or under accelerate."""
