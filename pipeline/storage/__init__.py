"""Files and tables of runs, in folders and buckets: paths, commits, checksums, locks, schemas."""
