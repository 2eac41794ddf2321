"""The commands beside camaudit itself: status, show, export and explain."""
