"""`python -m creatok_cli` is `creatok`."""

from creatok_cli.cli.app import main

if __name__ == "__main__":
    main()
