"""NeuroPrune (arXiv 2404.01306): the paper's penalties, the same regulated, and removal by functional connectivity."""
