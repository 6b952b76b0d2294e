"""Saved pages and the payload in them."""

from __future__ import annotations

import json
import re
from typing import Any

from nnsight_vlm.viewing.pages import page_of

__all__ = ["page_of", "payload_of", "with_payload"]
PAYLOAD = re.compile(r'(<script type="application/json" id="nnsight-vlm-view">)(.*?)(</script>)', re.DOTALL)


def payload_of(html: str) -> dict[str, Any]:
    """What a page was made of."""
    [(_, text, _)] = PAYLOAD.findall(html)
    return json.loads(text)


def with_payload(html: str, payload: dict[str, Any]) -> str:
    """The same page about something else."""
    text = json.dumps(payload).replace("<", "\\u003c")
    return PAYLOAD.sub(lambda found: found[1] + text + found[3], html, count=1)
