"""Running on a server: what is asked of a model, and how it goes there and comes back.

`model_call` says what is asked, `batching` lets several computations ask together, `packing` sends nothing twice, `job`
carries a job to the server and its answer home, whatever happens on the way, `job_store` keeps both on disk, and
`server_errors` says what went wrong. `background` has jobs that nobody waits for.
"""

from ..errors import RemoteError
from .background import Job, resume, submit
from .batching import together
from .events import Traffic, counting

__all__ = ["Job", "RemoteError", "Traffic", "counting", "resume", "submit", "together"]
