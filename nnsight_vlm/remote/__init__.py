"""Running models on a server: one job for many calls, nothing sent twice, and jobs that outlive this process.

`model_call` says what is asked of a model. `batching` lets several computations ask together, `packing` sends nothing
twice, `job` takes a job to the server and its answers back whatever happens on the way, `job_store` keeps both on disk,
and `server_errors` explains failures. `background` has jobs that nobody waits for, and `job_files` what they are to do.
"""

from ..errors import RemoteError
from .background import Job, resume, submit
from .batching import together
from .events import Traffic, counting, patience

__all__ = ["Job", "RemoteError", "Traffic", "counting", "patience", "resume", "submit", "together"]
