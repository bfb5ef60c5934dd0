"""Print the device for `make gpu-timing`, and stop if it is not a GPU, unless requested."""

from __future__ import annotations

import argparse
import sys

from neuroprune.results.environment import cpu_name, device_name


def main() -> None:
    """Print the device; exit with a sentence if it is the CPU, unless `--cpu` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="time the CPU if there is no GPU")
    allowed = parser.parse_args().cpu
    device = device_name()
    if device == "cpu" and not allowed:
        sys.exit(
            f"There is no GPU that torch can use, so this would time the CPU ({cpu_name()}) with models of 100 to 200 "
            "million parameters, for hours: `make gpu-timing CPU=1` does it all the same."
        )
    print(f"Timing {device if device != 'cpu' else cpu_name()}")


if __name__ == "__main__":
    main()
