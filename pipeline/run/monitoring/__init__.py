"""What a run tells other systems: progress, Prometheus, MLflow, JSON logs."""
