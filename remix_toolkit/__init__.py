"""remix-toolkit: teach a language model facts that stay."""

__version__ = "0.1.0"
