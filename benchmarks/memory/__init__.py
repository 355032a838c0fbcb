"""What benchmarks/memory.py is made of, and beside it what it measured (*.jsonl)."""
