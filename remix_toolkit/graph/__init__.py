"""Keys and order: what weights depend on, which stages a sweep needs, what waits for what, what it costs."""
