"""PyTorch's torchrun, with the exit code of the process that failed first, or of the signal that ended it."""

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

if __name__ == '__main__':
    try:
        run.main()
    except SignalException as error:  # its processes have ended by then
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code >= 0 else 128 - code) from None
