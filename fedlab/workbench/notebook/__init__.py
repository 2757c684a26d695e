"""What a notebook's cells call: set-up, answers, widgets."""
