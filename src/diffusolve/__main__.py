"""``python -m diffusolve``: the program."""

from diffusolve.cli.main import main

if __name__ == "__main__":
    main()
