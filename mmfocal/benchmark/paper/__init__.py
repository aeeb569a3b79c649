"""The paper's tables: training their cells, collecting and reporting results."""
