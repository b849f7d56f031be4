"""What a person reads: the retention matrix, tables, plots."""
