"""The example of a server runs on one, unchanged."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "your_own" / "server.py"


def test_the_example_of_a_server_runs_on_it_and_leaves_nothing_out(server, monkeypatch, capsys):
    monkeypatch.setenv("NNSIGHT_VLM_SERVER", server.url)
    monkeypatch.delenv("NNSIGHT_VLM_MODEL", raising=False)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert f"runs on {server.url}" in said and "jobs=1" in said and "not run" not in said
