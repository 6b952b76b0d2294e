"""The report with the model on a server: the same numbers as with the model on this machine."""

from __future__ import annotations

import client
import pandas as pd
import pytest
from typer.testing import CliRunner

from nnsight_vlm.cli import app
from nnsight_vlm.remote import counting
from nnsight_vlm.report import write_report
from nnsight_vlm.report.sections import SECTIONS
from nnsight_vlm.shapes.embedded import checkpoint

EXACT = 1e-5
FURTHER = [section.name for section in SECTIONS]
"""Small runs of recipes, each of which has a test of its own on a server."""
ENDS = 20 * EXACT
"""The ends of intervals over three pictures lie up to 13 standard errors from the mean, and so does their rounding."""


@pytest.fixture(scope="module")
def local_report(tmp_path_factory):
    options = {"scenes": 3, "max_new_tokens": 24, "without": FURTHER, "progress": False}
    return write_report(tmp_path_factory.mktemp("local") / "report", **options)


def assert_same(frame, expected):
    ends = frame.columns.intersection(["low", "high"])
    for columns, close in ((frame.columns.difference(ends, sort=False), EXACT), (ends, ENDS)):
        pd.testing.assert_frame_equal(frame[columns], expected[columns], check_exact=False, rtol=close, atol=close)


def test_a_report_of_a_model_on_a_server_is_the_same(local_report, server, tmp_path):
    out = tmp_path / "remote"
    options = ["--scenes", "3", "--max-new-tokens", "24", "--chunk", "3", "--host", server.url, "--out", str(out)]
    options += ["--without", ",".join(FURTHER)]
    with client.addressed(checkpoint("shapes")), counting() as traffic:
        finished = CliRunner().invoke(app, ["report", *options])
    assert finished.exit_code == 0, finished.output
    # the recipes; the pictures that are drawn; those that open in the page, three in the jobs of one
    assert traffic.jobs == 1 + 2 + 2 + 1 + 1 + 1 + 2 + 2
    for name, frame in local_report.frames.items():
        remote_frame = pd.read_parquet(out / "frames" / f"{name}.parquet")
        assert_same(remote_frame, frame)
    assert_same(pd.read_parquet(out / "claims.parquet"), local_report.claims)
    assert {path.name for path in (out / "figures").iterdir()} == {
        path.name for path in (local_report.folder / "figures").iterdir()
    }
