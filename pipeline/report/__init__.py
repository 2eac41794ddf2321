"""The report: pictures and one static page, from tables and plain values; knows no model."""
