"""What jetson-stats tells, where somebody has installed it. Asked for by name only, never by default.

Only its published client is called, as a user's own program would: the package is under the AGPL, and nothing of it is
here. Not run on a real Jetson.
"""

import threading


def read(seconds):
    """One reading.

    Returns:
        {"total_mw", "rails": name -> mW, "mode", "clocks_locked", "reason"}; "reason" tells why there is none.
    """
    found = {"total_mw": None, "rails": {}, "mode": None, "clocks_locked": None, "reason": None}
    thread = threading.Thread(target=_read, args=(found,), daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return dict(found, reason="jetson-stats gave no answer in %g s" % seconds)
    return found


def _read(found):
    try:
        from jtop import jtop

        with jtop() as client:
            if not client.ok():
                found["reason"] = "jetson-stats is not running"
                return
            found["total_mw"] = client.power["tot"]["power"]
            found["rails"] = {name: rail["power"] for name, rail in client.power["rail"].items()}
            found["mode"] = str(client.nvpmodel)
            found["clocks_locked"] = bool(client.jetson_clocks)
    except ImportError:
        found["reason"] = "jetson-stats is not installed"
    except Exception as error:
        # Its service may be of another version, or refuse us.
        found["reason"] = "jetson-stats: %s: %s" % (type(error).__name__, error)
