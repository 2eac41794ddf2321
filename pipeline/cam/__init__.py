"""Grad-CAM and its family, and statistics of heatmaps: tensor code that knows no files."""
