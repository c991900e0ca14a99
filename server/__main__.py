"""`python -m server` is `routelm`."""

from server.cli import main

if __name__ == "__main__":
    main()
