"""What both command lines share: one line for unusable input, the network that ships."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from common.errors import InputError

if TYPE_CHECKING:
    from papers.cover_song.network.coarse import PairNetwork

#: Trained on SHS100K by ``long_network/shs100k/every_work`` (seed 0), for the first 180 s of songs.
WEIGHTS: Final = Path(__file__).with_name("weights") / "network.safetensors"


def exit_of(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Run a command line and exit: 0, or 2 with one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main(None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def bar(total: int, what: str, unit: str) -> Any:
    """A progress bar on standard error, silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, disable=None, leave=False)


def load_weights(path: Path | None) -> PairNetwork:
    """The network in a file, or the one that ships."""
    from papers.cover_song.network.coarse import load_pair_network

    chosen = path or WEIGHTS
    if not chosen.is_file():
        raise InputError(f"--weights {chosen}: no such file")
    return load_pair_network(chosen)
