"""An audit as an unattended job: plan, state, locks, executors, monitoring."""
