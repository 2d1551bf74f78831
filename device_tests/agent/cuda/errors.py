"""What goes wrong with CUDA, with CUDA's own numbers: the same from 10.1 on, in the driver and in the runtime."""

INVALID_VALUE = 1
DRIVER_TOO_OLD = 35
NO_DEVICE = 100
INVALID_HANDLE = 400
NOT_SUPPORTED = 801


class CudaError(RuntimeError):
    """A CUDA call that failed.

    Attributes:
        call: which one.
        code: CUDA's number, None where there is none.
        text: CUDA's words.
    """

    def __init__(self, call, code, text):
        told = "%s: %s" % (call, text)
        super().__init__(told if code is None else "%s (CUDA error %d)" % (told, code))
        self.call = call
        self.code = code
        self.text = text


class CudaMissing(CudaError):
    """The provider is not there: no library, or no package."""

    def __init__(self, provider, text):
        super().__init__(provider, None, text)
