"""How this agent starts itself again, as another process of its own."""

import sys


def argv(role, program=None):
    """The command line for `role`, see `__main__`.

    Args:
        role: "child", "sample" or "guard".
        program: the agent's zip; None: the one that runs now.
    """
    return [sys.executable, "-u", program or sys.argv[0], "--" + role]
