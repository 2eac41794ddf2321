"""From the tables of explain to conclusions: shortcuts and their verification, ranking, changes."""
