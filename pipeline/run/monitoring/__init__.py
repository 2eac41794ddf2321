"""Reports of a run to other systems: progress, Prometheus, MLflow, JSON logs."""
