"""One page of mathematics per file: the equations of forward and backward, then the code in the same symbols."""
