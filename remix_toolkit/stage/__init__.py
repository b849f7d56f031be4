"""One stage: its data, its training, what is published, what is measured of it."""
