"""Entry of the zip: `python3 -u agent.zip`. With an argument it is one of the agent's own other processes, see `roles`.

Each imports only what it is: modules of a zip are compiled anew by every process, and a small board feels that.
"""

import sys


def main():
    """Runs as the agent, its child, its power sampler or the guard of its power mode."""
    if sys.argv[1:] == ["--child"]:
        from device_tests.agent import child as role
    elif sys.argv[1:] == ["--sample"]:
        from device_tests.agent.sensors import sampler as role
    elif sys.argv[1:] == ["--guard"]:
        from device_tests.agent import power_guard as role
    else:
        from device_tests.agent import serving as role
    role.main()


if __name__ == "__main__":
    main()
