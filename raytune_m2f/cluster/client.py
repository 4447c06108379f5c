"""The job server of a cluster: is it there, is it Ray, does it let us in; each in one clear error within seconds."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from raytune_m2f.errors import InputError, MissingDependencyError, RaytuneM2FError

ANSWER_S = 8.0
"""A server that does not answer for so long is not there."""
TOKEN = (
    "Set RAY_AUTH_MODE=token and give the cluster's token in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH or in "
    "~/.ray/auth_token."
)


def connect(address: str) -> Any:
    """Ray's JobSubmissionClient for the dashboard at `address`, such as http://head:8265.

    Raises:
        MissingDependencyError: Ray was installed without its job client.
        InputError: no Ray cluster answers there, or it wants another token.
    """
    if find_spec("aiohttp") is None:  # Ray would say so at the first word that it follows
        raise MissingDependencyError(
            "Ray's job client is not installed; it comes with the extra 'cluster': pip install 'raytune-m2f[cluster]', "
            'in a checkout pip install --constraint constraints.txt ".[cluster]"'
        )
    from ray.job_submission import JobSubmissionClient

    _require_ray(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    for module in ("dashboard_sdk", "job.sdk"):  # they set a level of their own when they are imported
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # else RAY_ADDRESS would win over what the user has typed
    with clear_answers(address):
        return JobSubmissionClient(address)


@contextmanager
def clear_answers(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into our errors."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise InputError(f"the cluster at {address} does not let us in: {_in_short(error)}. {TOKEN}") from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise RaytuneM2FError(
            f"the cluster at {address} does not answer any more: {_in_short(error)}. The jobs that it has go on; ask "
            "again with `raytune-m2f logs`."
        ) from error
    except RuntimeError as error:  # any answer but 200
        raise RaytuneM2FError(f"the cluster at {address} could not do it: {error}") from error


def _require_ray(address: str) -> None:
    """Ask who is there; Ray's own client waits for ever."""
    wanted = "Give the address of the cluster's dashboard, such as http://head:8265"
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1:
            raise ValueError
    except ValueError:  # of urlsplit too: a port that is none
        raise InputError(f"--address: got {address!r}, allowed: http://HOST:PORT. {wanted}.") from None
    try:
        with urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S) as answer:
            json.load(answer)["ray_version"]
    except HTTPError as error:
        if error.code not in (401, 403):  # the client says these better
            raise InputError(f"what answers at {address} is no Ray dashboard ({error}). {wanted}.") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"no Ray cluster answers at {address}: {reason}. {wanted}; if it listens on the head alone, forward its "
            "port first: `ray dashboard cluster.yaml`, `kubectl port-forward` or `ssh -L 8265:localhost:8265`."
        ) from None
    except Exception:  # whatever a server that is none of Ray's may send
        raise InputError(f"what answers at {address} is no Ray dashboard. {wanted}.") from None


def _in_short(error: Exception) -> str:
    """The first sentence of what Ray says."""
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
