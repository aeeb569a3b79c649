"""The paper's tables: trains their cells, collects the results and reports them."""
