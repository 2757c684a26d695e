"""What a notebook's cells call: set-up, answers, widgets, looks at splits, devices and vectors."""

from fedlab.workbench.notebook.explorers import drill_down, split_explorer
from fedlab.workbench.notebook.maps import VectorMap, vector_map
from fedlab.workbench.notebook.text_search import TextSearch, query_box

__all__ = ["TextSearch", "VectorMap", "drill_down", "query_box", "split_explorer", "vector_map"]
