"""What the benchmarks themselves compute."""
