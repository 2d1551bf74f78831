"""Tells the hash of an upload as this board reads it, and removes it: a health check tries link and disk that way."""

import os

from device_tests.agent.incoming import sha256_file
from device_tests.agent.protocol import Refusal


def methods(agent):
    """Name -> function(params, deadline, event)."""

    def echo(params, _deadline, _event):
        """Params: `name`, of a file in the workdir's `incoming`."""
        if agent.folders is None:
            raise Refusal("bad-request", "say hello first: it names the workdir")
        name = params["name"]
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise Refusal("bad-params", "%r is no name of an upload" % name)
        path = os.path.join(agent.folders.root, "incoming", name)
        try:
            return {"sha256": sha256_file(path), "bytes": os.path.getsize(path)}
        finally:
            if os.path.exists(path):
                os.remove(path)

    return {"echo": echo}
