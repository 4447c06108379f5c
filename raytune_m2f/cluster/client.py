"""Connect to the job server of a Ray cluster; whatever is wrong is one clear error within seconds."""

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
"""Seconds to wait for the first answer of a server."""
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
    if find_spec("aiohttp") is None:  # Ray itself would fail only when a log is followed
        raise MissingDependencyError(
            "Ray's job client is not installed; it comes with the extra 'cluster': pip install 'raytune-m2f[cluster]', "
            'in a checkout pip install --constraint constraints.txt ".[cluster]"'
        )
    from ray.job_submission import JobSubmissionClient

    require_ray(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    for module in ("dashboard_sdk", "job.sdk"):  # they set a level of their own when they are imported
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # else RAY_ADDRESS would override what the user has given
    with clear_answers(address):
        return JobSubmissionClient(address)


@contextmanager
def clear_answers(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into our errors, InputError or RaytuneM2FError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise InputError(f"the cluster at {address} does not let us in: {_first_sentence(error)}. {TOKEN}") from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise RaytuneM2FError(
            f"the cluster at {address} does not answer any more: {_first_sentence(error)}. The jobs that it has "
            "go on; ask again with `raytune-m2f logs`."
        ) from error
    except RuntimeError as error:  # any answer but 200
        raise RaytuneM2FError(f"the cluster at {address} could not do it: {error}") from error


def require_ray(address: str, timeout_s: float = ANSWER_S) -> None:
    """Check that a Ray dashboard answers at the address; Ray's own client would wait without end.

    A dashboard that wants a token passes: the client has the better message for that.

    Raises:
        InputError: the address is none, or nothing or something else answers there.
    """
    wanted = "Give the address of the cluster's dashboard, such as http://head:8265"
    try:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1:
            raise ValueError
    except ValueError:  # urlsplit raises it, too, for a wrong port
        raise InputError(f"--address: got {address!r}, allowed: http://HOST:PORT. {wanted}.") from None
    try:
        with urlopen(f"{address.rstrip('/')}/api/version", timeout=timeout_s) as answer:
            json.load(answer)["ray_version"]
    except HTTPError as error:
        if error.code not in (401, 403):
            raise InputError(f"what answers at {address} is no Ray dashboard ({error}). {wanted}.") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"no Ray cluster answers at {address}: {reason}. {wanted}; if it listens on the head alone, forward its "
            "port first: `ray dashboard cluster.yaml`, `kubectl port-forward` or `ssh -L 8265:localhost:8265`."
        ) from None
    except Exception:  # another server may answer anything
        raise InputError(f"what answers at {address} is no Ray dashboard. {wanted}.") from None


def _first_sentence(error: Exception) -> str:
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
