"""Entry of the zip: `python3 -u agent.zip`. With `--child` it is one of the agent's own children.

Each imports only what it is: modules of a zip are compiled anew by every process, and a small board feels that.
"""

import sys


def main():
    """Runs as the agent or as its child."""
    if sys.argv[1:] == ["--child"]:
        from device_tests.agent import child as role
    else:
        from device_tests.agent import serving as role
    role.main()


if __name__ == "__main__":
    main()
