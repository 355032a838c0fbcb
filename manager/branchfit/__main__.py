"""`python -m branchfit`, for where the command is not on the PATH."""

from .cli import main

if __name__ == "__main__":
    main()
