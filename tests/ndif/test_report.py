"""The report, run where the model is: the same numbers, and an interrupted one fetches what it had sent."""

from __future__ import annotations

import client
import pandas as pd
import pytest
from typer.testing import CliRunner

from nnsight_vlm.cli import app
from nnsight_vlm.remote.background import counting
from nnsight_vlm.report import write_report
from nnsight_vlm.shapes.model import checkpoint

EXACT = 1e-5


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("here") / "report", scenes=3, max_new_tokens=24, progress=False)


def test_a_report_of_a_server_is_the_same(here, server, tmp_path):
    out = tmp_path / "there"
    options = ["--scenes", "3", "--max-new-tokens", "24", "--chunk", "3", "--host", server.url, "--out", str(out)]
    with client.addressed(checkpoint("shapes")), counting() as traffic:
        done = CliRunner().invoke(app, ["report", *options])
    assert done.exit_code == 0, done.output
    assert traffic.jobs == 1 + 2 + 2 + 1 + 1 + 1 + 2  # the recipes, and the pictures that are drawn
    for name, frame in here.frames.items():
        found = pd.read_parquet(out / "frames" / f"{name}.parquet")
        pd.testing.assert_frame_equal(found, frame, check_exact=False, rtol=EXACT, atol=EXACT)
    claims = pd.read_parquet(out / "claims.parquet")
    pd.testing.assert_frame_equal(claims, here.claims, check_exact=False, rtol=EXACT, atol=EXACT)
    assert {path.name for path in (out / "figures").iterdir()} == {
        path.name for path in (here.folder / "figures").iterdir()
    }
