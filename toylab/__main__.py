"""`python -m toylab` is the command `toylab`."""

from toylab.cli import main

if __name__ == "__main__":
    main()
