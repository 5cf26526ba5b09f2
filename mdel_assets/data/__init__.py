"""Data: from a raw shard to one dataset per domain. Read `shard_pass.py`, then `assemble.py`."""
