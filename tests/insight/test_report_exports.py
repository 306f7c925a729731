"""Exports of a report: Impact Framework, SPDX 3 and BoAmps, each as its own readers want it."""

from __future__ import annotations

import importlib
import json
from decimal import Decimal
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import rows as make
from tests.support.command import Command

from setsuden.insight.report.assumptions import Declared
from setsuden.insight.report.build import read_run, report_of
from setsuden.insight.report.errors import RowsError
from setsuden.insight.report.exports import boamps, impact, spdx
from setsuden.insight.report.exports.yaml_text import document
from setsuden.insight.report.model import Amount, Report
from setsuden.insight.report.read import Span
from setsuden.schemas.energy import Source
from setsuden.schemas.windows import Access, Component, Counts

yaml: Any = importlib.import_module("yaml")
"""Comes with Ray; its types do not."""


@pytest.fixture
def setsuden(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def reported(folder: Path, **changes: Any) -> Report:
    make.cascade(**changes).write(folder)
    return report_of(read_run([folder], Declared(), Span()))


# -- YAML -------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
)
data = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12),
    st.recursive(
        scalars,
        lambda below: (
            st.dictionaries(st.from_regex(r"[a-z-]{1,8}", fullmatch=True), below)
            | st.lists(scalars | st.dictionaries(st.just("key"), below, min_size=1))
        ),
        max_leaves=12,
    ),
    min_size=1,
)


@given(data)
def test_what_is_written_as_yaml_reads_back(value: dict[str, Any]) -> None:
    assert yaml.safe_load(document(value)) == value


# -- Impact Framework -------------------------------------------------------------------------


def test_the_manifest_has_what_the_frameworks_sci_needs_in_every_row(tmp_path: Path) -> None:
    manifest = yaml.safe_load(impact.text(reported(tmp_path)))
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


# -- SPDX -------------------------------------------------------------------------------------


def test_every_model_is_an_ai_package_with_its_energy_of_inference(tmp_path: Path) -> None:
    report = reported(tmp_path)
    told = json.loads(spdx.text(report))
    assert told["@context"] == "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
    packages = [entry for entry in told["@graph"] if entry["type"] == "ai_AIPackage"]
    assert [package["name"] for package in packages] == ["meter/teacher", "meter/student"]
    (used,) = packages[1]["ai_energyConsumption"]["ai_inferenceEnergyConsumption"]
    assert used["ai_energyUnit"] == "kilowattHour"
    joules = Decimal(used["ai_energyQuantity"]) * Decimal(3_600_000)
    model = report.models[-1]
    assert float(joules) == pytest.approx((model.dynamic.joules or 0) + (model.idle.joules or 0))
    assert "E" not in used["ai_energyQuantity"].upper(), "xsd:decimal has no exponent"
    assert packages[1]["verifiedUsing"][0]["hashValue"] == "d" * 64


def test_every_element_of_the_graph_has_an_id_of_its_own_and_one_creation(tmp_path: Path) -> None:
    graph = spdx.document(reported(tmp_path))["@graph"]
    creation, *elements = graph
    assert creation["created"] == "2025-11-24T16:00:10Z"
    ids = [element["spdxId"] for element in elements]
    assert len(set(ids)) == len(ids)
    assert {element["creationInfo"] for element in elements} == {creation["@id"]}
    document_ = next(element for element in elements if element["type"] == "SpdxDocument")
    assert set(document_["rootElement"]) <= set(ids)
    assert document_["profileConformance"] == ["core"], "licence and supplier are not known here"


def test_unknown_energy_is_left_out_of_the_bill_of_materials_and_said(tmp_path: Path) -> None:
    device = make.silent()
    make.write(tmp_path, device, make.device(device, joules=None))
    report = report_of(read_run([tmp_path], Declared(), Span()))
    (package,) = [e for e in spdx.document(report)["@graph"] if e["type"] == "ai_AIPackage"]
    assert "ai_energyConsumption" not in package
    assert "energy unknown" in package["comment"]


# -- BoAmps -----------------------------------------------------------------------------------


def test_a_boamps_report_has_what_its_schema_requires(tmp_path: Path) -> None:
    told = json.loads(boamps.text(reported(tmp_path)))
    assert {"task", "measures", "infrastructure"} <= set(told)
    assert {"taskStage", "taskFamily", "algorithms", "dataset"} <= set(told["task"])
    assert told["task"]["taskStage"] == "inference"
    assert told["task"]["nbRequest"] == 2000
    assert told["infrastructure"]["infraType"] == "other"
    for measure in told["measures"]:
        assert {"measurementMethod", "powerConsumption"} <= set(measure)
    for entry in told["infrastructure"]["components"]:
        assert {"componentType", "nbComponent"} <= set(entry)
    assert told["environment"]["country"] == "FR"


def test_measures_of_boamps_sum_to_the_headline(tmp_path: Path) -> None:
    report = reported(tmp_path)
    measures = boamps.document(report)["measures"]
    kwh = fsum(measure["powerConsumption"] for measure in measures)
    assert kwh * 3.6e6 == pytest.approx(report.whole.total.joules)


@pytest.mark.parametrize(
    ("high", "complete", "quality"),
    [(1.05, True, "high"), (1.2, True, "medium"), (2.0, True, "low"), (1.05, False, "low")],
)
def test_quality_is_boamps_own_scale_of_error(high: float, complete: bool, quality: str) -> None:
    amount = Amount(joules=1.0, low=1 / high, high=high, source=Source.MEASURED, complete=complete)
    assert boamps.quality_of(amount) == quality


def test_a_run_without_joules_is_no_boamps_report(tmp_path: Path) -> None:
    device = make.silent(access=Access.LAN)
    make.write(tmp_path, device, make.device(device, joules=None))
    report = report_of(read_run([tmp_path], Declared(), Span()))
    with pytest.raises(RowsError, match="no joules are known"):
        boamps.document(report)


def test_a_run_in_two_grids_names_no_country(tmp_path: Path) -> None:
    first, second = make.meter(), make.meter(Component.CLOUD, "w", site="nl-ams-1")
    rows = [make.window(first, 0, make.work(1, 0.1), counts=Counts(local=1))]
    make.write(tmp_path, first, rows)
    make.write(tmp_path, second, make.worker(second))
    report = report_of(read_run([tmp_path], Declared(), Span()))
    assert "environment" not in boamps.document(report)


# -- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["impact", "spdx", "boamps"])
def test_an_export_goes_to_a_file_or_to_standard_output(
    setsuden: Command, tmp_path: Path, name: str
) -> None:
    make.cascade().write(tmp_path / "run")
    told = setsuden("report", tmp_path / "run", "--export", name)
    assert told.code == 0
    file = tmp_path / "out"
    ended = setsuden("report", tmp_path / "run", "--export", name, "--out", file)
    assert ended.code == 0
    assert file.read_text(encoding="utf-8") == told.out
    assert "energy per 1,000 inferences" in ended.out
