"""Starts the command line, or says what it needs; what the commands do stands in `kadepy.cli`."""

import sys


def main() -> None:
    """Run `kadepy` and end the process with its exit status."""
    try:
        from kadepy.cli import main as command
    except ImportError:
        sys.exit('kadepy\'s command line needs: pip install "kadepy[cli]"')
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
