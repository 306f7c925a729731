"""A bundle's models on this machine: which ways of running them cost how much CPU time."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from setsuden.energy.host.cpu import cores, reserved_share
from setsuden.energy.host.system import Host
from setsuden.energy.options import EnergyOptions
from setsuden.energy.sensors.detect import detect
from setsuden.insight.model_energy.findings import (
    BATCH,
    DECLARED,
    DEFAULT,
    ONE_THREAD,
    OWN_CHOICE,
    Comparison,
    Figures,
    ModelFigures,
    ModelFinding,
    Way,
    findings,
)
from setsuden.insight.model_energy.rig import TURNS, Loaded, Rig, Run
from setsuden.pipelines.bundle import MAX_MODEL_BYTES, Bundle
from setsuden.pipelines.models.session import Array, Session, opened
from setsuden.schemas.bundle import ModelSpec, Observation
from setsuden.schemas.energy import Boundary, EnergyReading, Method, Source
from setsuden.schemas.errors import BundleError
from setsuden.schemas.result import ModelRef

MAX_ITEMS = 32
"""Of a batch that is measured."""
_INT8 = (b"DequantizeLinear", b"MatMulInteger", b"ConvInteger", b"QLinearMatMul", b"QLinearConv")
"""Operators whose names stand in the file of a quantised model as they are."""
_MODELLED = frozenset({Source.CALIBRATED_MODEL, Source.DECLARED, Source.TABLE_MODEL})
Tell = Callable[[int, int, str], None]
"""Hears how many blocks are done, of how many, and which model is next."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured, and how."""

    rate: float = 20.0
    """Paced runs a second."""
    seconds: float = 3.0
    """Paced runs of each way, over all turns."""
    models: tuple[str, ...] = ()
    """Of the bundle; none names all."""
    against: tuple[tuple[Path, str], ...] = ()
    """Files that are another precision of the model named beside them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that was read."""

    name: str
    spec: ModelSpec
    ref: ModelRef
    content: bytes = field(repr=False)

    @property
    def quantised(self) -> bool:
        """True when the file names an operator of quantised models."""
        return any(name in self.content for name in _INT8)


class PowerRate(NamedTuple):
    """What a model of this machine says of one CPU-second."""

    joules: float
    """Above idle."""
    factor: float
    source: Source
    boundary: Boundary
    origin: str


class Measured(NamedTuple):
    """All that was measured, and what follows from it."""

    models: tuple[ModelFigures, ...]
    comparisons: tuple[Comparison, ...]
    findings: tuple[ModelFinding, ...]
    power: PowerRate | None
    cpus: int
    """That this process may use."""


def measure(
    bundle: Bundle, wanted: Wanted, options: EnergyOptions, host: Host, tell: Tell
) -> Measured:
    """Measure now; raises BundleError, ConfigError and MissingExtraError."""
    power, cpus = power_rate(options, host), usable_cpus(host)
    groups = grouped(subjects(bundle, wanted), wanted.against)
    rig = Rig(wanted.rate, wanted.seconds, host.clock)
    progress = _progress(tell, groups)
    found = {
        figures.name: figures
        for group in groups
        for figures in _figures(bundle, group, rig, power, progress)
    }
    compared = tuple(
        Comparison(found[group[0].name], found[other.name])
        for group in groups
        for other in group[1:]
    )
    own = [figures for name, figures in found.items() if name in bundle.manifest.models]
    told = findings(own, compared, wanted.rate, cpus)
    return Measured(tuple(found.values()), compared, told, power, cpus)


def usable_cpus(host: Host) -> int:
    """CPUs that this process may keep busy, by affinity and ``cpu.max``; a part of one is one."""
    return max(1, ceil(reserved_share(host)[0] * cores(host.root) - 1e-9))


def _progress(tell: Tell, groups: Sequence[Sequence[Subject]]) -> Callable[[str], None]:
    blocks = TURNS * sum(len(ways(one.spec)) for group in groups for one in group)
    done = iter(range(blocks))
    return lambda name: tell(next(done), blocks, name)


def _figures(
    bundle: Bundle,
    group: Sequence[Subject],
    rig: Rig,
    power: PowerRate | None,
    told: Callable[[str], None],
) -> list[ModelFigures]:
    loaded = [_load(bundle, one, way) for one in group for way in ways(one.spec)]
    made = rig.measure(loaded, told)
    return [
        ModelFigures(
            one.name,
            one.spec.file,
            one.spec.threads,
            one.quantised,
            tuple(
                _with_joules(figures, power)
                for each, figures in zip(loaded, made, strict=True)
                if each.name == one.name
            ),
        )
        for one in group
    ]


def _with_joules(figures: Figures, power: PowerRate | None) -> Figures:
    if figures.paced is None:
        return figures
    return figures._replace(energy=reading(figures.paced.cpu_ms / 1000, power))


def _load(bundle: Bundle, one: Subject, way: Way) -> Loaded:
    spec = one.spec.model_copy(update={"threads": way.threads})
    classes = len(bundle.manifest.classes)
    session = opened(one.content, spec, one.ref, classes, spinning=way.spinning)
    batch = session.prepare(inputs(bundle.manifest.observation, way.items))
    return Loaded(one.name, way, _run(session, batch))


def _run(session: Session, batch: Array) -> Run:
    return lambda: session.run(batch)


# -- what is measured -----------------------------------------------------------------------------


def subjects(bundle: Bundle, wanted: Wanted) -> list[Subject]:
    """The models and the files to compare them with; raises BundleError."""
    named = [model for _, model in wanted.against]
    names = dict.fromkeys((*wanted.models, *named)) if wanted.models else bundle.manifest.models
    found = [_subject(bundle, name) for name in names]
    return [*found, *(_other(bundle, path, model) for path, model in wanted.against)]


def _subject(bundle: Bundle, name: str) -> Subject:
    spec = bundle.spec(name)
    content, ref = bundle.read(name)
    return Subject(name, spec, ref, content)


def _other(bundle: Bundle, path: Path, model: str) -> Subject:
    """Another file with the model's names, shapes and threads."""
    spec = bundle.spec(model).model_copy(update={"file": path.name, "sha256": None})
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise BundleError(f"{path} is over the limit of 2 GiB")
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    manifest = bundle.manifest
    digest = hashlib.sha256(content).hexdigest()
    ref = ModelRef(bundle=manifest.name, version=manifest.version, model=model, digest=digest)
    return Subject(str(path), spec, ref, content)


def grouped(
    found: Sequence[Subject], against: Sequence[tuple[Path, str]]
) -> list[tuple[Subject, ...]]:
    """Models that are compared with each other together, the one in full precision first.

    In a bundle ``name-int8`` is compared with ``name`` when their inputs are alike.
    """
    base = {str(path): model for path, model in against}
    base |= {one.name: two.name for one in found for two in found if _twins(one, two)}
    groups: defaultdict[str, list[Subject]] = defaultdict(list)
    for one in found:
        if one.name not in base:
            groups[one.name].append(one)
    for one in found:
        if one.name in base:
            groups[base[one.name]].append(one)
    return [tuple(group) for group in groups.values()]


def _twins(one: Subject, two: Subject) -> bool:
    return (
        one.name.startswith(f"{two.name}-")
        and one.quantised != two.quantised
        and (one.spec.dtype, one.spec.shape) == (two.spec.dtype, two.spec.shape)
    )


def ways(spec: ModelSpec) -> tuple[Way, ...]:
    """How a model is run: as declared, with one thread, as onnxruntime would, in batches."""
    found = [Way(DECLARED, spec.threads)]
    if spec.threads > 1:
        found.append(Way(ONE_THREAD, 1))
    found.append(Way(DEFAULT, OWN_CHOICE, spinning=True))
    if spec.max_batch > 1:
        found.append(Way(BATCH, spec.threads, items=min(spec.max_batch, MAX_ITEMS)))
    return tuple(found)


def inputs(observation: Observation, items: int) -> list[Array]:
    """The same observations each time: zeros would let some kernels off lightly."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(observation.dtype.value)
    drawn = rng.random((items, *observation.shape))
    if dtype.kind == "b":
        return list(drawn > 0.5)
    top = min(np.iinfo(dtype).max, 255) if dtype.kind in "iu" else 1
    return list((drawn * top).astype(dtype))


# -- joules ---------------------------------------------------------------------------------------


def power_rate(options: EnergyOptions, host: Host) -> PowerRate | None:
    """Joules of a CPU-second above idle: the best model of this machine; None when none is wanted.

    A meter of the whole machine sees nothing of a run of a millisecond, so it is not asked. A
    calibrated curve bends; this is its mean slope. Raises ConfigError.
    """
    detection = detect(options, host)
    if not detection.chosen.domains:
        return None
    for candidate in detection.candidates:
        domain = candidate.domains[0] if candidate.available and candidate.domains else None
        if domain is None or domain.source not in _MODELLED or candidate.idle_watts is None:
            continue
        if domain.max_watts is not None:
            watts = max(0.0, domain.max_watts - candidate.idle_watts) / cores(host.root)
            return PowerRate(watts, domain.factor, domain.source, domain.boundary, candidate.origin)
    return None


def reading(cpu_seconds: float, power: PowerRate | None) -> EnergyReading | None:
    """So much CPU time as joules above idle; None without a model."""
    if power is None:
        return None
    joules = cpu_seconds * power.joules
    return EnergyReading(
        joules=joules,
        joules_low=joules / power.factor,
        joules_high=joules * power.factor,
        cpu_seconds=cpu_seconds,
        source=power.source,
        boundary=power.boundary,
        method=Method.EXCLUSIVE,
    )
