"""``setsuden energy``: see, calibrate, watch and verify the joules of this machine."""
