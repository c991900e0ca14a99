"""Matrix products with frozen weights: the compiled ones, with their C++ sources, and their definition."""
