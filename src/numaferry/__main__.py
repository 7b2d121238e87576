"""`python -m numaferry`."""

from numaferry.cli import main

if __name__ == "__main__":
    main()
