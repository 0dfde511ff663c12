"""A Ray cluster to work on: the one at an address, or one that is started on this machine and ends with its user."""

import re
import socket
import warnings
from types import ModuleType

CONNECT_SECONDS = 5.0


def connected(cpus: int, address: str) -> ModuleType:
    """Ray, connected to ``address`` (``auto``, ``host:port``, ``ray://host:port``); ``local`` starts a cluster of
    ``cpus`` on this machine. ``ray.shutdown()`` is the caller's.

    Raises ValueError saying why there is none.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("--ray needs Ray, which is not installed: pip install 'colaworld[ray]'") from error
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address)
    if address not in ("local", "auto") and place is None:
        raise ValueError(f"--ray is 'local', 'auto', 'host:port' or 'ray://host:port', got {address!r}")
    if place is not None:  # Ray itself goes on trying for minutes
        try:
            socket.create_connection((place[1], int(place[2])), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"no Ray cluster answers at {address}: {error}") from error
    settings = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # says what the sentence below says
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster lets this process in at {address}: {str(error).splitlines()[0]} "
            "(one with token authentication wants RAY_AUTH_MODE=token here too)"
        ) from error
    return ray
