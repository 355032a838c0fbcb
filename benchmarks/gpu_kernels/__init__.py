"""What benchmarks/gpu_kernels.py is made of, and beside it what it measured (*.jsonl, README.md)."""
