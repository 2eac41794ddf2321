"""Conclusions from the tables of explain: shortcuts, their verification, suspects, changes."""
