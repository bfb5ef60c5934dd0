"""NeuroPrune (arXiv 2404.01306): the paper's penalties, regulated penalties, and removal by functional connectivity."""
