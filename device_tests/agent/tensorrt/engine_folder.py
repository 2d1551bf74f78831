"""One engine in a folder of its own, as a release has it: `engine.plan` and `engine.json`, whatever the cache holds."""

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import identity as identities
from device_tests.agent.tensorrt.engines import RECORD, Engines, mismatch


class EngineFolder(Engines):
    """The engine of one folder; `read` checks its content as that of any other."""

    def folder(self, _key):
        """The folder itself."""
        return self.root

    def find(self, wanted):
        """Its record, where the engine runs where `wanted` is asked for.

        Raises:
            Refusal: "engine-damaged", "engine-mismatch" with "differences".
        """
        record = self.record(None)
        if record is None:
            raise Refusal("engine-damaged", "%s in %s cannot be read" % (RECORD, self.root))
        if not identities.runs(wanted, record["identity"]):
            raise mismatch(wanted, record["identity"])
        return record
