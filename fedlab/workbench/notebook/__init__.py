"""What a notebook's cells call: set-up, answers, widgets, a box for questions."""

from fedlab.workbench.notebook.text_search import TextSearch, query_box

__all__ = ["TextSearch", "query_box"]
