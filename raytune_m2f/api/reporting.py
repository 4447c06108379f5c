"""`Study.report`: a study as one file of HTML."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_m2f.api.training import PathOrAddress
from raytune_m2f.errors import InputError
from raytune_m2f.progress import Progress, still
from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.files import require_free, write_atomically
from raytune_m2f.study.lines import short_line

if TYPE_CHECKING:
    from raytune_m2f.report.pictures import Predictor
    from raytune_m2f.study.directory import StudyDirectory
    from raytune_m2f.study.status import StudyStatus

REPORT = "report.html"
MOST_PICTURES = 16
"""Test images, so that the file stays below 10 MB."""
WATCH_SECONDS = 20.0
PICTURES, TEST_IMAGES = 6, 200

log = logging.getLogger(__name__)


def write_report(
    study: StudyDirectory,
    output: PathOrAddress | None,
    *,
    pictures: int,
    test_images: int,
    device: str | None,
    watch: bool,
    trust: bool,
    progress: Progress,
) -> Path:
    """`Study.report`, which says what the arguments are and what is raised."""
    if not 0 <= pictures <= MOST_PICTURES:
        raise InputError(f"--pictures: got {pictures}, allowed: 0 to {MOST_PICTURES}")
    if test_images < 0:
        raise InputError(f"--test-images: got {test_images}, allowed: 0 (no evaluation) or more")
    file = Path(os.fspath(output)) if output is not None else study.root / REPORT
    if output is not None and is_address(os.fspath(output)):
        raise InputError(f"--output {output}: a report is written to a file on this machine")
    if output is None and is_address(str(study)):
        raise InputError(f"the study {study} is on a store: say by --output where its report is to be written")
    if file.is_dir():
        raise InputError(f"--output {file} is a directory: give a file, such as {file / REPORT}")
    require_free(file, "--output")
    file.parent.mkdir(parents=True, exist_ok=True)
    log.info("report of the study %s: %s", study, file)
    with still(log, "writing the report"):
        from raytune_m2f.report.pictures import Predictor  # with torch: only now that there is a study

        predictor = Predictor(study, device=device, trust=trust)
    said = ""
    while True:
        status = _write(study, file, predictor, pictures, test_images, watch, progress)
        if not (watch and status.driver):
            return file
        if (line := short_line(status)) != said:
            said = line
            log.info("written; again every %.0f s while the study runs: %s", WATCH_SECONDS, line)
        time.sleep(WATCH_SECONDS)
        study.pull()


def _write(
    study: StudyDirectory,
    file: Path,
    predictor: Predictor,
    pictures: int,
    test_images: int,
    watch: bool,
    progress: Progress,
) -> StudyStatus:
    """Write the report once, of the status that is returned."""
    from raytune_m2f.report.content import read_content
    from raytune_m2f.report.figures import draw_all
    from raytune_m2f.report.page import render

    content = read_content(study)
    runs = content.status.driver is not None
    gallery = predictor.gallery(content, pictures, progress)
    heads = predictor.heads(content, test_images, progress)
    page = render(content, draw_all(content), gallery, heads, reload=int(WATCH_SECONDS) if watch and runs else 0)
    write_atomically(file, page)
    return content.status
