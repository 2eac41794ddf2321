"""Files and tables of this machine and of buckets: named, committed, sealed, locked, scanned."""
