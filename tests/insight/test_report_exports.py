"""The report as an Impact Framework manifest, as its own reader wants it."""

from __future__ import annotations

import json
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from tests.support import rows as make
from tests.support.command import Command

from setsuden.insight.report.assumptions import Declarations
from setsuden.insight.report.build import read_run, report_of
from setsuden.insight.report.model import Report
from setsuden.insight.report.render import impact
from setsuden.insight.report.rows.read import TimeRange


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def reported(folder: Path, **changes: Any) -> Report:
    make.cascade(**changes).write(folder)
    return report_of(read_run([folder], Declarations(), TimeRange()))


def test_the_manifest_has_what_the_frameworks_sci_needs_in_every_row(tmp_path: Path) -> None:
    manifest = json.loads(impact.text(reported(tmp_path)))
    assert set(manifest) == {"name", "description", "tags", "initialize", "tree"}
    plugins = manifest["initialize"]["plugins"]
    assert plugins["sum-carbon"]["config"]["input-parameters"] == ["carbon-operational"]
    assert plugins["sci"] == {
        "path": "builtin",
        "method": "Sci",
        "config": {"functional-unit": "inferences"},
    }
    for child in manifest["tree"]["children"].values():
        assert child["pipeline"]["compute"] == ["sum-carbon", "sci"]
        for row in child["inputs"]:
            assert row["duration"] >= 1
            assert row["carbon-operational"] >= 0
            assert row["inferences"] == 2000
            assert row["timestamp"] == "2025-11-24T16:00:00.000Z"


def test_the_manifests_scores_add_up_to_the_reports_sci(tmp_path: Path) -> None:
    report = reported(tmp_path)
    children = impact.manifest(report)["tree"]["children"].values()
    rows = [row for child in children for row in child["inputs"]]
    score = fsum(row["carbon-operational"] / row["inferences"] for row in rows)
    assert report.sci.grams == pytest.approx(score * 1000)
    energy = fsum(row["energy"] for row in rows)
    assert energy == pytest.approx(fsum(row.kwh or 0.0 for row in report.carbon.rows))


def test_without_a_grid_the_manifest_computes_nothing(tmp_path: Path) -> None:
    manifest = impact.manifest(reported(tmp_path, site="undeclared"))
    assert manifest["initialize"]["plugins"] == {}
    child = manifest["tree"]["children"]["edge-undeclared"]
    assert child["pipeline"]["compute"] == []
    assert child["inputs"][0]["energy"] == pytest.approx(176.0 / 3.6e6)
    assert "carbon-operational" not in child["inputs"][0]


def test_the_export_goes_to_a_file_or_to_standard_output(setsuden: Command, tmp_path: Path) -> None:
    make.cascade().write(tmp_path / "run")
    printed = setsuden("report", tmp_path / "run", "--export", "impact")
    assert printed.code == 0
    file = tmp_path / "out"
    ended = setsuden("report", tmp_path / "run", "--export", "impact", "--out", file)
    assert ended.code == 0
    assert file.read_text(encoding="utf-8") == printed.out
    assert "energy per 1,000 inferences" in ended.out
