"""The report: everything that the line has found, on one page that opens from disk."""
