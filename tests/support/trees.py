"""Captured trees of power files, built under a folder, with devices that go on, stop and refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from setsuden.energy.host.system import Clock, FileHandle, Host, SysRoot

HWMON = "sys/class/hwmon"
POWERCAP = "sys/class/powercap"
SUPPLY = "sys/class/power_supply"
INTEL_MAX_UJ = 262_143_328_850
AMD_MAX_UJ = 65_532_610_987


class FaultyRoot(SysRoot):
    """Files of which some refuse to be opened and some to be read; tests run as root."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._denied: list[str] = []
        self._failing: dict[str, int] = {}

    def deny(self, pattern: str) -> None:
        """Opening files of this pattern is refused (EACCES)."""
        self._denied.append(pattern)

    def fail(self, pattern: str, code: int) -> None:
        """Reading files of this pattern fails, also through what is open; 0 ends it."""
        self._failing[pattern] = code

    def open(self, name: str) -> FileHandle:
        """The file; raises PermissionError for a denied one."""
        if any(fnmatch(name, pattern) for pattern in self._denied):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        handle = super().open(name)
        return _FaultyHandle(handle, name, self)

    def check(self, name: str) -> None:
        """Raises OSError for a file that is to fail."""
        for pattern, code in self._failing.items():
            if code and fnmatch(name, pattern):
                raise OSError(code, os.strerror(code))


class _FaultyHandle(FileHandle):
    def __init__(self, handle: FileHandle, name: str, root: FaultyRoot) -> None:
        super().__init__(-1)
        self._handle, self._name, self._root = handle, name, root

    def text(self) -> str:
        self._root.check(self._name)
        return self._handle.text()

    def close(self) -> None:
        self._handle.close()


class HandClock(Clock):
    """Time that moves when told, and a little with every look at it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        """The time; a microsecond later each time."""
        self.now_ns += 1_000
        return self.now_ns

    def wall_ns(self) -> int:
        """The same on the wall."""
        return 1_700_000_000_000_000_000 + self.now_ns


class Machine:
    """A machine's power files; each builder adds one device."""

    def __init__(self, path: Path) -> None:
        self.root = FaultyRoot(path)
        self.clock = HandClock()
        self.host = Host(self.root, self.clock)
        self._counters: dict[str, tuple[int, int | None]] = {}
        self._hwmons = 0

    # -- what happens to it -------------------------------------------------------------------

    def write(self, name: str, text: object) -> None:
        """The file now says this; whoever holds it open reads it."""
        place = self.root.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n", encoding="utf-8")

    def write_all(self, folder: str, texts: dict[str, object]) -> None:
        """Several files of one folder."""
        for name, text in texts.items():
            self.write(f"{folder}/{name}", text)

    def counter(self, name: str, microjoules: int, most: int | None = None) -> None:
        """A file that counts microjoules, and goes back to 0 after ``most``."""
        self._counters[name] = (microjoules, most)
        self.write(name, microjoules)

    def advance(self, seconds: float = 1.0, joules: float = 20.0) -> None:
        """Time passes and every counter counts these joules."""
        self.clock.now_ns += round(seconds * 1e9)
        for name, (value, most) in self._counters.items():
            counted = value + round(joules * 1e6)
            self.counter(name, counted if most is None else counted % (most + 1), most)

    def vanish(self) -> None:
        """Every device is unbound: what is open says ENODEV."""
        self.root.fail("sys/*", errno.ENODEV)

    # -- devices ------------------------------------------------------------------------------

    def hwmon(self, name: str, texts: dict[str, object], device: str | None = None) -> str:
        """One hwmon device; returns its folder. ``device`` is what its link points to."""
        folder = f"{HWMON}/hwmon{self._hwmons}"
        self._hwmons += 1
        self.write_all(folder, {"name": name, **texts})
        if device is not None:
            target = self.root.path / "sys/devices" / device
            target.mkdir(parents=True, exist_ok=True)
            (self.root.path / folder / "device").symlink_to(target)
        return folder

    def rapl(
        self,
        packages: int = 2,
        *,
        dram: bool = True,
        psys: bool = False,
        mmio: bool = False,
        max_uj: int = INTEL_MAX_UJ,
        denied: bool = False,
        mirrored: bool = False,
    ) -> None:
        """Powercap zones as Intel and AMD show them."""
        for package in range(packages):
            start = 5_000_000_000 if mirrored else 5_000_000_000 + package * 777_000_000
            zone = f"intel-rapl:{package}"
            self.zone(zone, f"package-{package}", start, max_uj)
            self.write(f"{POWERCAP}/{zone}/constraint_0_max_power_uw", 280_000_000)
            self.zone(f"{zone}:0", "core", start // 2, max_uj)
            if dram:
                self.zone(f"{zone}:1", "dram", start // 3, max_uj)
            if mmio:
                self.zone(f"intel-rapl-mmio:{package}", f"package-{package}", start, max_uj)
        if psys:
            self.zone(f"intel-rapl:{packages}", "psys", 9_000_000_000, max_uj)
        if denied:
            self.root.deny(f"{POWERCAP}/*/energy_uj")

    def zone(self, zone: str, name: str, microjoules: int, most: int = INTEL_MAX_UJ) -> None:
        """One powercap zone that counts."""
        folder = f"{POWERCAP}/{zone}"
        self.write_all(folder, {"name": name, "max_energy_range_uj": most})
        self.counter(f"{folder}/energy_uj", microjoules, most or None)

    def ina226(self, device: str = "1-0040", name: str = "ina226", **texts: object) -> str:
        """A power monitor on the supply rail, 12 W."""
        said: dict[str, object] = {
            "in0_input": 2,  # the shunt, not the rail
            "in1_input": 12_000,
            "curr1_input": 1_000,
            "power1_input": 12_000_000,
            "shunt_resistor": 2000,
            "update_interval": 35,
        }
        return self.hwmon(name, {**said, **texts}, device)

    def ina3221(
        self,
        labels: Sequence[str] = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"),
        *,
        driver: str = "ina3221",
        device: str = "1-0040",
    ) -> str:
        """Three rails of 1, 2 and 3 A at 5 V, and the sums that hold them again."""
        if driver == "ina3221x":
            return self._ina3221x(labels, device)
        texts: dict[str, object] = {"samples": 1}
        for number, label in enumerate(labels, start=1):
            texts |= {
                f"in{number}_label": label,
                f"in{number}_enable": int(label != "off"),
                f"in{number}_input": 5_000,
                f"curr{number}_input": 1_000 * number,
                f"in{number + 3}_input": 2 * number,
            }
        sums = {"curr4_input": 6_000, "in7_input": 12, "in7_label": "sum of shunt voltages"}
        return self.hwmon(driver, {**texts, **sums}, device)

    def _ina3221x(self, labels: Sequence[str], device: str) -> str:
        folder = f"sys/bus/i2c/drivers/ina3221x/{device}/iio:device0"
        for number, label in enumerate(labels):
            self.write_all(
                folder,
                {
                    f"rail_name_{number}": label,
                    f"in_power{number}_input": 5_000 * (number + 1),
                    f"in_voltage{number}_input": 5_000,
                    f"in_current{number}_input": 1_000 * (number + 1),
                },
            )
        return folder

    def grace(self, sockets: int = 2, *, module: bool = False, old: bool = True) -> None:
        """Power telemetry of Grace: one hwmon device for each figure, whatever its order."""
        watts = {"SysIO": 10, "Grace": 100, "CPU": 60} | ({"Module": 400} if module else {})
        for socket in range(sockets):
            for name, power in watts.items():
                texts: dict[str, object] = {
                    "power1_average": power * 1_000_000,
                    "power1_oem_info": f"{name} Power Socket {socket}",
                    "power1_average_interval": 50,
                    "power1_accuracy": "100.0%",
                    "power1_is_battery": 0,
                }
                self._acpi(texts, old=old)

    def acpi_meter(
        self, accuracy: str = "95.0%", *, watts: float = 150, old: bool = False, **texts: object
    ) -> str:
        """A host's ACPI power meter."""
        said: dict[str, object] = {
            "power1_average": round(watts * 1e6),
            "power1_average_interval": 1000,
            "power1_accuracy": accuracy,
            "power1_is_battery": 0,
        }
        return self._acpi({**said, **texts}, old=old)

    def _acpi(self, texts: dict[str, object], *, old: bool) -> str:
        """Linux before 6.14 hangs the files on the device, later ones on hwmon itself."""
        if not old:
            return self.hwmon("power_meter", texts)
        return self.hwmon("power_meter", {f"device/{name}": text for name, text in texts.items()})

    def xgene(self, *, swapped: bool = False) -> str:
        """CPU and IO power of X-Gene and perhaps Altra; found by text, not number."""
        cpu, inout = (2, 1) if swapped else (1, 2)
        return self.hwmon(
            "apm_xgene",
            {
                "temp1_input": 45_000,
                f"power{cpu}_label": "CPU power",
                f"power{cpu}_input": 80_000_000,
                f"power{inout}_label": "IO power",
                f"power{inout}_input": 15_000_000,
            },
        )

    def scmi(self) -> None:
        """Two outer zones, one with an inner zone; no energy counter."""
        for zone, name, watts in (("0", "soc", 30), ("0:0", "cluster", 20), ("1", "dram", 5)):
            self.write_all(
                f"{POWERCAP}/arm-scmi:{zone}", {"name": name, "power_uw": watts * 1_000_000}
            )

    def hwmon_energy(self, name: str = "aem1", counters: int = 1, **texts: object) -> str:
        """A device that counts microjoules."""
        folder = self.hwmon(name, dict(texts))
        for number in range(1, counters + 1):
            self.counter(f"{folder}/energy{number}_input", 1_000_000_000 * number)
        return folder

    def amd_energy(self, cores: int = 4, sockets: int = 2) -> str:
        """AMD's module: a counter for each core, then one for each socket."""
        folder = self.hwmon("amd_energy", {})
        labels: Iterable[str] = [f"Ecore{core:03}" for core in range(cores)]
        labels = [*labels, *(f"Esocket{socket}" for socket in range(sockets))]
        for number, label in enumerate(labels, start=1):
            self.write(f"{folder}/energy{number}_label", label)
            self.counter(f"{folder}/energy{number}_input", 3_000_000 * number)
        return folder

    def battery(self, status: str = "Discharging", name: str = "BAT0", **texts: object) -> str:
        """A battery of 9 W; ``power_now=None`` leaves current and voltage."""
        folder = f"{SUPPLY}/{name}"
        said = {"type": "Battery", "status": status, "power_now": 9_000_000}
        said |= {"current_now": 750_000, "voltage_now": 12_000_000} | texts
        self.write_all(folder, {key: text for key, text in said.items() if text is not None})
        return folder

    def proc_stat(self, busy: int = 1_000, idle: int = 9_000, cores: int = 2) -> None:
        """``/proc/stat`` in ticks of 10 ms."""
        lines = [f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0"]
        lines += [
            f"cpu{core} {busy // cores} 0 0 {idle // cores} 0 0 0 0 0 0" for core in range(cores)
        ]
        self.write("proc/stat", "\n".join(lines))
