"""What benchmarks/download.py is made of: the files, the server, the line, the clients, the clock, the table."""
