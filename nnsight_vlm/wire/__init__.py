"""From a request to its answer, here or on a server: what is asked together is one job.

`requests` says what is asked, `rounds` lets several computations ask together, `parcels` packs what they
ask so that nothing is sent twice, `jobs` carries a job to the server and its answer home, whatever happens on
the way, `records` keeps both on disk, and `words` says what went wrong.
"""

from .requests import Remote, Request
from .rounds import ask, together

__all__ = ["Remote", "Request", "ask", "together"]
