"""Which rows are whose: splits, drawn data sets, and how unlike devices become."""
