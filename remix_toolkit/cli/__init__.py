"""The `remix` command: parses arguments, calls what stands below, prints."""
