"""The face of fedlab: what notebooks call, batch runs, figures and reports."""
