"""`python -m tgibench` is the command `tgibench`."""

from tgibench.cli import main

if __name__ == "__main__":
    main()
