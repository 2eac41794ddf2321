"""The report: a static site with pictures and charts, made from the tables of a run."""
