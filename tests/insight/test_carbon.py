"""Grams and euros of a joule: shipped tables, declared sites, and live services off the path."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from setsuden.cli.energy.intensity import intensity as command
from setsuden.insight.carbon import web
from setsuden.insight.carbon.intensity import IntensityError, RateMethod, intensity, zones
from setsuden.insight.carbon.live import ElectricityMaps, UkCarbonIntensity, refresh, token_of
from setsuden.insight.carbon.network_rates import network_rate
from setsuden.insight.carbon.series import HourRow, IntensitySeries, hour_of
from setsuden.insight.carbon.sites import Embodied, Price, charge, embodied, profile, profiles
from setsuden.insight.report.assumptions import Declarations, NetworkRates, read_declared
from setsuden.insight.report.totals.meters import transfer
from setsuden.schemas.errors import ConfigError, SetsudenError
from setsuden.schemas.windows import Access

NOW = datetime(2026, 11, 23, 14, 20, tzinfo=UTC)
HOUR = datetime(2026, 11, 23, 13, tzinfo=UTC)
READ = date(2026, 11, 23)
TOKEN = "secret-token-1234"  # noqa: S105  # of no service

Answer = tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], None]


# -- yearly table -----------------------------------------------------------------------------


def test_every_country_has_a_plausible_figure_with_its_year_and_source() -> None:
    assert len(zones()) > 200
    for zone in zones():
        figure = intensity(zone)
        assert figure is not None
        assert len(zone) == 2
        assert 1 <= figure.g_per_kwh <= 1500
        assert 2022 <= figure.year <= 2025
        assert "Our World in Data" in figure.source
        assert "CC BY 4.0" in figure.source
        assert str(figure.year) in figure.label


@pytest.mark.parametrize(
    ("zone", "year", "grams"),
    [("FR", 2025, 41.44), ("PL", 2025, 588.6), ("CY", 2025, 489.0), ("KY", 2024, 633.8)],
)
def test_the_newest_year_is_given(zone: str, year: int, grams: float) -> None:
    """CY and KY too: lists that map codes of countries mix Cyprus and the Cayman Islands up."""
    figure = intensity(zone)
    assert figure is not None
    assert (figure.year, figure.g_per_kwh, figure.method) == (year, grams, RateMethod.AVERAGE)


def test_a_window_of_the_past_gets_the_figure_of_its_own_year() -> None:
    figure = intensity("FR", 2023)
    assert figure is not None
    assert (figure.year, figure.g_per_kwh) == (2023, 53.26)
    assert intensity("FR", 2021) is None


@pytest.mark.parametrize("zone", ["QQ", "", "WORLD", "fr", "US-CAL-CISO"])
def test_an_unknown_zone_has_no_figure_and_no_world_average(zone: str) -> None:
    assert intensity(zone) is None


# -- sites ------------------------------------------------------------------------------------


def test_scaleway_zones_are_as_published() -> None:
    pue = {name: site.pue for name, site in profiles().items()}
    assert pue == {
        "fr-par-1": 1.46,
        "fr-par-2": 1.16,
        "fr-par-3": 1.44,
        "nl-ams-1": 1.38,
        "nl-ams-2": 1.40,
        "nl-ams-3": 1.20,
        "pl-waw-1": 1.51,
        "pl-waw-2": 1.32,
        "pl-waw-3": 1.43,
    }
    water = {name: site.wue_l_per_kwh for name, site in profiles().items()}
    assert (water["fr-par-2"], water["nl-ams-1"], water["pl-waw-1"]) == (0.214, 0.85, None)


def test_every_site_has_a_grid_with_a_figure_a_source_and_a_date() -> None:
    for name, site in profiles().items():
        assert site.zone == name[:2].upper()
        assert intensity(site.zone) is not None
        assert site.lifespan_years == 6
        assert "Scaleway" in site.source
        assert site.retrieved == READ


def test_an_unknown_site_has_no_profile() -> None:
    assert profile("undeclared") is None


SITES = """
[profiles.lab]
zone = "JP"
pue = 1.1
source = "our meter room"
retrieved = 2026-11-23

[profiles.fr-par-1]
zone = "FR"
pue = 1.45
source = "Scaleway, newer"
retrieved = 2026-11-23

[embodied.lab]
total_kg = 60.0
source = "the maker's study"
retrieved = 2026-11-23

[prices.lab]
euros_per_kwh = 0.21
source = "contract"
retrieved = 2026-11-23
"""


def sites(tmp_path: Path, text: str) -> Declarations:
    path = tmp_path / "sites.toml"
    path.write_text(text)
    return read_declared(path)


def test_a_declared_site_is_known_and_replaces_a_shipped_one(tmp_path: Path) -> None:
    own = sites(tmp_path, SITES)
    lab, replaced = profile("lab", own.profiles), profile("fr-par-1", own.profiles)
    assert lab is not None
    assert (lab.name, lab.zone, lab.pue, lab.wue_l_per_kwh) == ("lab", "JP", 1.1, None)
    assert replaced is not None
    assert (replaced.pue, replaced.wue_l_per_kwh) == (1.45, None)
    assert own.embodied["lab"].total_kg == 60
    assert own.prices["lab"].euros_per_kwh == 0.21


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("pue = 1.1", "pue = 0.9", "sites.toml:4: profiles.lab.pue"),
        ('zone = "JP"', 'zone = "Japan"', "profiles.lab.zone"),
        ('source = "our meter room"\n', "", "profiles.lab.source: is required"),
        ("pue = 1.1", "pues = 1.1", "did you mean 'pue'?"),
        ("total_kg = 60.0", "total_kg = -60.0", "embodied.lab.total_kg"),
        ("euros_per_kwh = 0.21\n", "", "give euros_per_kwh or euros_per_hour"),
        ("[prices.lab]", "[price.lab]", "did you mean 'prices'?"),
    ],
)
def test_a_wrong_declaration_is_refused_by_field(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in SITES
    with pytest.raises(ConfigError) as refused:
        sites(tmp_path, SITES.replace(old, new, 1))
    assert expected in str(refused.value)


# -- network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [Access.UNDECLARED, Access.LOOPBACK, Access.LAN])
def test_no_rate_is_invented_for_a_network_without_figures(access: Access) -> None:
    assert network_rate(access) is None


@pytest.mark.parametrize(
    ("access", "low", "mid", "high"),
    [(Access.FIXED, 1.11e-4, 0.0065, 0.06), (Access.MOBILE, 3.3e-3, 0.1, 0.14)],
)
def test_rates_are_those_of_their_sources(
    access: Access, low: float, mid: float, high: float
) -> None:
    rate = network_rate(access)
    assert rate is not None
    assert rate.low == pytest.approx(low)
    assert (rate.mid, rate.high) == (mid, high)
    assert all(name in rate.source for name in ("Malmodin", "Carbon Trust", "high: "))


def test_100_kilobytes_of_a_fixed_line_are_0_04_to_21_joules() -> None:
    rate = network_rate(Access.FIXED)
    assert rate is not None
    sent = transfer(100_000, NetworkRates(**rate._asdict()))
    assert (sent.low, sent.joules, sent.high) == pytest.approx(
        (0.024 + 0.016, 2.34, 21.6), rel=0.01
    )
    assert transfer(0, NetworkRates(**rate._asdict())).joules == 0


# -- embodied carbon and euros ----------------------------------------------------------------


def test_embodied_carbon_is_undeclared_and_not_0_without_a_declaration() -> None:
    share = embodied(None, 3600, 1.0, lifespan_years=6)
    assert (share.grams, share.label) == (None, "undeclared")


def test_embodied_carbon_without_any_lifespan_is_undeclared() -> None:
    board = Embodied(total_kg=60, source="study", retrieved=READ)
    share = embodied(board, 3600, 1.0)
    assert (share.grams, share.label) == (None, "undeclared")
    assert "lifespan" in share.source


def test_embodied_carbon_is_te_times_tir_over_el_times_rr_over_tor() -> None:
    board = Embodied(total_kg=1200, lifespan_years=4, source="study", retrieved=READ)
    year = 365.25 * 86_400
    assert embodied(board, year, 0.25).grams == pytest.approx(1_200_000 / 4 * 0.25)
    assert embodied(board, year, 0.25, lifespan_years=6).grams == pytest.approx(75_000)
    assert embodied(board, 0, 1.0) == (0, "declared", "study")


@given(
    parts=st.lists(st.floats(0, 1e7), min_size=1, max_size=20),
    share=st.floats(0, 1),
)
def test_embodied_carbon_of_parts_of_a_time_sums_to_that_of_the_whole(
    parts: list[float], share: float
) -> None:
    board = Embodied(total_kg=1200, source="study", retrieved=READ)
    pieces = sum(embodied(board, part, share, 6).grams or 0.0 for part in parts)
    assert embodied(board, sum(parts), share, 6).grams == pytest.approx(pieces, abs=1e-9)


@pytest.mark.parametrize(("seconds", "share"), [(-1, 0.5), (1, 1.5), (1, -0.1), (1, float("nan"))])
def test_a_negative_time_or_an_impossible_share_is_refused(seconds: float, share: float) -> None:
    with pytest.raises(ValueError, match="share between 0 and 1"):
        embodied(None, seconds, share)


def test_electricity_is_paid_for_the_building_too() -> None:
    price = Price(euros_per_kwh=0.20, source="contract", retrieved=READ)
    charged = charge(price, joules=3.6e6, seconds=60, reserved_share=1, pue=1.5)
    assert charged.euros == pytest.approx(0.30)
    assert charged.method == "electricity"


def test_rent_includes_the_electricity() -> None:
    price = Price(euros_per_kwh=0.20, euros_per_hour=2.0, source="list", retrieved=READ)
    charged = charge(price, joules=3.6e6, seconds=1800, reserved_share=0.5, pue=1.5)
    assert charged.euros == pytest.approx(0.5)
    assert charged.method == "rent"


def test_euros_are_unknown_and_not_0_without_a_price_or_joules() -> None:
    price = Price(euros_per_kwh=0.20, source="contract", retrieved=READ)
    nothing = charge(None, joules=1.0, seconds=1, reserved_share=1)
    assert (nothing.euros, nothing.method) == (None, "undeclared")
    assert charge(price, joules=None, seconds=1, reserved_share=1).euros is None


# -- series -----------------------------------------------------------------------------------


def row(**changed: Any) -> HourRow:
    fields: dict[str, Any] = {
        "hour": HOUR,
        "zone": "FR",
        "g_per_kwh": 40.0,
        "method": RateMethod.AVERAGE,
        "estimated": False,
        "source": "a service",
        "fetched": NOW,
    }
    return HourRow(**{**fields, **changed})


def test_a_window_finds_the_intensity_of_its_hour(tmp_path: Path) -> None:
    path = tmp_path / "grid" / "hours.jsonl"
    IntensitySeries([row(), row(zone="DE", g_per_kwh=300.0)]).write(path)
    series = IntensitySeries.read(path)
    figure = series.at("FR", HOUR + timedelta(minutes=59, seconds=59))
    assert figure is not None
    assert figure == (40.0, 2026, "FR", RateMethod.AVERAGE, False, "a service")
    assert series.at("FR", HOUR + timedelta(hours=1)) is None
    assert series.at("ES", HOUR) is None


def test_hours_of_other_time_zones_are_the_same_hours() -> None:
    tokyo = datetime.fromisoformat("2026-11-23T22:30+09:00")
    assert hour_of(tokyo) == HOUR
    assert IntensitySeries([row(hour=tokyo)]).at("FR", HOUR) is not None


def test_average_and_marginal_rates_are_never_in_one_series(tmp_path: Path) -> None:
    series = IntensitySeries([row()])
    with pytest.raises(IntensityError, match="takes no marginal"):
        series.add([row(hour=HOUR - timedelta(hours=1), method=RateMethod.MARGINAL)])
    path = tmp_path / "mixed.jsonl"
    lines = [row().model_dump_json(), row(zone="DE", method=RateMethod.MARGINAL).model_dump_json()]
    path.write_text("\n".join(lines))
    with pytest.raises(IntensityError, match="two files"):
        IntensitySeries.read(path)


def test_two_services_are_never_mixed_for_one_zone() -> None:
    with pytest.raises(IntensityError, match="from 'a service', not from 'another'"):
        IntensitySeries([row(), row(hour=NOW, source="another")])


def test_a_reading_replaces_an_estimate_and_never_the_other_way_round() -> None:
    series = IntensitySeries([row(estimated=True, g_per_kwh=50.0)])
    series.add([row(g_per_kwh=40.0)])
    series.add([row(estimated=True, g_per_kwh=60.0)])
    assert [(kept.g_per_kwh, kept.estimated) for kept in series] == [(40.0, False)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "hours.jsonl:2: "),
        ("[]", "hours.jsonl:2: "),
        (row().model_dump_json().replace("40.0", "-1"), "hours.jsonl:2: g_per_kwh"),
        (row().model_dump_json().replace("40.0", "null"), "g_per_kwh"),
        (row().model_dump_json().replace("average", "usual"), "method"),
        (row().model_dump_json().replace("13:00:00Z", "13:00:00"), "hour"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "hours.jsonl"
    path.write_text(f"{row(zone='DE').model_dump_json()}\n{line}\n")
    with pytest.raises(IntensityError, match=expected.replace(".", r"\.")):
        IntensitySeries.read(path)


def test_no_file_is_an_empty_series_and_a_folder_is_an_error(tmp_path: Path) -> None:
    assert len(IntensitySeries.read(tmp_path / "none.jsonl")) == 0
    with pytest.raises(IntensityError, match="cannot read"):
        IntensitySeries.read(tmp_path)
    with pytest.raises(IntensityError, match="cannot write"):
        IntensitySeries([row()]).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@given(
    st.lists(
        st.builds(
            row,
            hour=st.integers(0, 100_000).map(lambda hours: HOUR + timedelta(hours=hours)),
            g_per_kwh=st.floats(0, 1500),
            zone=st.sampled_from(["FR", "US-CAL-CISO"]),
            estimated=st.booleans(),
        ),
        max_size=30,
    )
)
def test_a_series_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[HourRow]
) -> None:
    path = tmp_path_factory.mktemp("series") / "hours.jsonl"
    written = IntensitySeries(rows)
    written.write(path)
    assert list(IntensitySeries.read(path)) == list(written)


# -- live services ----------------------------------------------------------------------------


class Service(NamedTuple):
    """A server of the test, what it answers, and what it was asked."""

    url: str
    answers: list[Answer]
    asked: list[tuple[str, dict[str, str]]]

    def say(self, document: object, status: int = 200) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers.append((status, body))


@pytest.fixture
def service() -> Iterator[Service]:
    """One that gives each answer once, in turn."""
    answers: list[Answer] = []
    asked: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, {key.lower(): text for key, text in self.headers.items()}))
            answer = answers.pop(0)
            if callable(answer):
                answer(self)
                return
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Service(f"http://127.0.0.1:{server.server_port}", answers, asked)
    server.shutdown()
    thread.join()
    server.server_close()


def point(hour: str, grams: float | None, **more: object) -> dict[str, object]:
    """As Electricity Maps documents it."""
    known = {
        "zone": "DE",
        "carbonIntensity": grams,
        "datetime": f"2026-11-23T{hour}:00:00.000Z",
        "updatedAt": "2026-11-23T14:02:11.004Z",
        "createdAt": "2026-11-20T14:47:49.346Z",
        "emissionFactorType": "lifecycle",
        "isEstimated": False,
        "estimationMethod": None,
    }
    return {**known, **more}


HISTORY = {
    "zone": "DE",
    "history": [
        point("11", 310),
        point("12", None),
        point("13", 325, isEstimated=True, estimationMethod="TIME_SLICER_AVERAGE"),
    ],
}


def half(start: str, forecast: int | None, actual: int | None) -> dict[str, object]:
    """As the UK Carbon Intensity API documents it."""
    figures = {"forecast": forecast, "actual": actual, "index": "moderate"}
    return {"from": f"2026-11-23T{start}Z", "to": "2026-11-23T23:59Z", "intensity": figures}


HALVES = {
    "data": [
        half("11:30", 150, 160),
        half("12:00", 166, 170),
        half("12:30", 170, 180),
        half("13:00", 175, 181),
        half("13:30", 179, None),
        half("14:00", None, None),
    ]
}


def kept(series: IntensitySeries) -> list[tuple[int, float, bool]]:
    return [(hour.hour.hour, hour.g_per_kwh, hour.estimated) for hour in series]


def test_electricity_maps_hours_are_kept_with_what_was_estimated(
    service: Service, tmp_path: Path
) -> None:
    service.say(HISTORY)
    path = tmp_path / "hours.jsonl"
    series = refresh(ElectricityMaps(TOKEN, service.url), "DE", path, NOW)
    assert kept(series) == [(11, 310, False), (13, 325, True)]
    assert kept(IntensitySeries.read(path)) == kept(series)
    asked, headers = service.asked[0]
    assert asked.startswith("/v3/carbon-intensity/history?zone=DE&")
    assert "disableCallerLookup=true" in asked
    assert headers["auth-token"] == TOKEN
    assert TOKEN not in asked + path.read_text()


def test_an_hour_that_does_not_say_whether_it_is_estimated_counts_as_estimated(
    service: Service, tmp_path: Path
) -> None:
    bare = {"carbonIntensity": 310, "datetime": "2026-11-23T11:00:00.000Z"}
    service.say({"zone": "DE", "history": [bare]})
    series = refresh(ElectricityMaps(TOKEN, service.url), "DE", tmp_path / "h.jsonl", NOW)
    assert kept(series) == [(11, 310, True)]


def test_an_answer_for_the_zone_of_our_own_address_is_refused(
    service: Service, tmp_path: Path
) -> None:
    """What Electricity Maps gives for a zone it does not know."""
    service.say({**HISTORY, "zone": "FR"})
    with pytest.raises(IntensityError, match="answered for 'FR', not 'DE'"):
        refresh(ElectricityMaps(TOKEN, service.url), "DE", tmp_path / "h.jsonl", NOW)


def test_half_hours_become_hours_and_a_missing_actual_makes_one_estimated(
    service: Service, tmp_path: Path
) -> None:
    service.say(HALVES)
    series = refresh(UkCarbonIntensity(service.url), "GB", tmp_path / "hours.jsonl", NOW)
    assert kept(series) == [(11, 160, True), (12, 175, False), (13, 180, True)]
    assert service.asked[0][0] == "/intensity/2026-11-23T14:20Z/pt24h"


def test_the_uk_service_is_not_asked_for_another_country(service: Service, tmp_path: Path) -> None:
    with pytest.raises(IntensityError, match="knows GB, not 'IE'"):
        refresh(UkCarbonIntensity(service.url), "IE", tmp_path / "hours.jsonl", NOW)
    assert service.asked == []


def test_a_service_is_asked_once_an_hour_and_later_hours_mend_estimates(
    service: Service, tmp_path: Path
) -> None:
    path, uk = tmp_path / "hours.jsonl", UkCarbonIntensity(service.url)
    service.say(HALVES)
    refresh(uk, "GB", path, NOW)
    again = refresh(uk, "GB", path, NOW + timedelta(minutes=39))
    assert len(service.asked) == 1
    assert again.at("GB", HOUR) is not None

    service.say({"data": [half("13:00", 175, 181), half("13:30", 179, 183)]})
    later = refresh(uk, "GB", path, NOW + timedelta(hours=1))
    assert len(service.asked) == 2
    assert kept(later) == [(11, 160, True), (12, 175, False), (13, 182, False)]


BROKEN = [
    (b"", "answered something else"),
    (b"<html>busy</html>", "answered something else"),
    (b"\xff\xfe", "answered something else"),
    (b"[]", "answered something else"),
    (b"{}", "answered something else: zone"),
    (json.dumps({"zone": "DE", "history": None}).encode(), "history"),
    (json.dumps({"zone": "DE", "history": []}).encode(), "knows no hour of 'DE'"),
    (json.dumps({"zone": "DE", "history": [point("11", -5)]}).encode(), "carbonIntensity"),
    (json.dumps({"zone": "DE", "history": [point("11", 3100)]}).encode(), "carbonIntensity"),
    (b'{"zone": "DE", "history": [{"carbonIntensity": NaN}]}', "carbonIntensity"),
    (json.dumps({"zone": "DE", "history": [point("77", 300)]}).encode(), "datetime"),
    (
        json.dumps(
            {"zone": "DE", "history": [point("11", 9, emissionFactorType="direct")]}
        ).encode(),
        "emissionFactorType",
    ),
    (b" " * (web.MAX_BYTES + 1), "is longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("body", "expected"), BROKEN)
def test_an_unexpected_answer_is_reported_and_changes_no_file(
    service: Service, tmp_path: Path, body: bytes, expected: str
) -> None:
    service.say(body)
    path = tmp_path / "hours.jsonl"
    with pytest.raises(IntensityError, match=expected) as refused:
        refresh(ElectricityMaps(TOKEN, service.url), "DE", path, NOW)
    assert isinstance(refused.value, SetsudenError)
    assert TOKEN not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "refuses the token"), (403, "token"), (429, "too often"), (500, "status 500")],
)
def test_a_refusal_is_reported(
    service: Service, tmp_path: Path, status: int, expected: str
) -> None:
    service.say({"error": "no"}, status)
    with pytest.raises(IntensityError, match=expected):
        refresh(ElectricityMaps(TOKEN, service.url), "DE", tmp_path / "h.jsonl", NOW)


def test_a_redirect_does_not_carry_the_token_anywhere(service: Service, tmp_path: Path) -> None:
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{service.url}/thief")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    service.answers.append(elsewhere)
    with pytest.raises(IntensityError, match="status 302"):
        refresh(ElectricityMaps(TOKEN, service.url), "DE", tmp_path / "h.jsonl", NOW)
    assert len(service.asked) == 1


def test_an_answer_that_drips_is_given_up(service: Service) -> None:
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while not gone.wait(0.02):
                handler.wfile.write(b" ")

    service.answers.append(drip)
    began = time.monotonic()
    try:
        with pytest.raises(IntensityError, match=r"no answer within 0\.2 s"):
            web.get(service.url, {}, timeout=0.2)
    finally:
        gone.set()
    assert time.monotonic() - began < 5


def test_a_service_that_is_down_costs_an_error_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "hours.jsonl"
    with pytest.raises(IntensityError, match=r"no intensity from 127\.0\.0\.1"):
        refresh(UkCarbonIntensity("http://127.0.0.1:1"), "GB", path, NOW)
    assert not path.exists()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://a/b", "uk", "https://"])
def test_only_addresses_of_the_web_are_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        web.get(url, {})


@pytest.mark.parametrize("text", ["", "\n", "two words", "a\nauth: b", "ab"])
def test_a_file_without_a_token_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no token"):
        token_of(path)


def test_a_token_may_end_with_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert token_of(path) == TOKEN


# -- command line -----------------------------------------------------------------------------


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_the_command_shows_the_year_and_the_source() -> None:
    result = ran("fr")
    assert result.exit_code == 0
    assert "FR 2025: 41.4 g/kWh" in result.stdout
    assert "Our World in Data" in result.stdout
    document = json.loads(ran("FR", "--year", "2023", "--json").stdout)
    assert (document["year"], document["g_per_kwh"], document["zone"]) == (2023, 53.26, "FR")


def test_the_command_asks_a_service_once_and_keeps_its_answer(
    service: Service, tmp_path: Path
) -> None:
    service.say(HALVES)
    path = str(tmp_path / "hours.jsonl")
    arguments = ("GB", "--live", "uk", "--url", service.url, "--save", path)
    first = ran(*arguments)
    assert first.exit_code == 0
    assert "2026-11-23 13:00    180.0 g/kWh  estimated" in first.stdout
    assert "CC BY 4.0" in first.stderr
    assert len(IntensitySeries.read(Path(path))) == 3


def test_the_command_reads_the_token_from_a_file(service: Service, tmp_path: Path) -> None:
    service.say(HISTORY)
    (tmp_path / "token").write_text(TOKEN)
    token = str(tmp_path / "token")
    result = ran(
        "DE", "--live", "electricity-maps", "--token-file", token, "--url", service.url, "--json"
    )
    assert result.exit_code == 0
    hours = json.loads(result.stdout)["hours"]
    assert [(hour["g_per_kwh"], hour["estimated"]) for hour in hours] == [
        (310, False),
        (325, True),
    ]
    assert service.asked[0][1]["auth-token"] == TOKEN
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("QQ",), "does not have 'QQ'"),
        (("France",), "is no zone"),
        (("FR", "--year", "2001"), "no figure of 2001"),
        (("FR", "--save", "x"), "--save needs --live"),
        (("DE", "--live", "electricity-maps"), "needs --token-file"),
        (("GB", "--live", "uk", "--token-file", "x"), "--token-file needs --live electricity-maps"),
        (("GB", "--live", "uk", "--year", "2024"), "--year is of the yearly table"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: tuple[str, ...], expected: str) -> None:
    result = ran(*arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert expected in " ".join(result.output.split())
