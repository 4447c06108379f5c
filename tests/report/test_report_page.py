"""The page: one file without a network, whose plots have tables, and whose words cannot become code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_study import NASTY, made_study

import raytune_m2f as rm
from raytune_m2f.errors import InputError, StudyError
from raytune_m2f.storage.files import is_ours

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Page(HTMLParser):
    """What is in a page; raises where a tag is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, Any]]] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            self.scripts.append((attributes, data))
        elif tag != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rm.Study(made_study(tmp_path_factory.mktemp("page"))).report(pictures=1, test_images=1)


@pytest.fixture(scope="module")
def page(file: Path) -> Page:
    return Page(file.read_text("utf-8"))


def test_it_is_one_file_below_ten_megabytes_in_the_study(file: Path) -> None:
    assert file.name == "report.html"
    assert (file.parent / "study.yaml").is_file()
    assert file.stat().st_size < 10 * 10**6


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    addresses = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    for script in code:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy, "the browser would not run it"
    assert len(code) == policy.count("sha256-") == 2
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_words_of_the_user_stay_words(page: Page, file: Path) -> None:
    assert NASTY in page.text
    assert NASTY not in file.read_text("utf-8")


def test_every_plot_has_its_data_a_name_and_a_table(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    plots = [each for each in page.all("div") if each.get("class") == "plot"]
    names = {plot["id"] for plot in plots}
    assert {"curves", "history", "importance", "slice-0"} <= names
    data = {each["id"]: json.loads(text) for each, text in page.scripts if each.get("type") == "application/json"}
    for plot in plots:
        assert plot["role"] == "img"
        assert plot["aria-label"]
        assert data[f"{plot['id']}-data"]["data"], plot["id"]
    assert len(page.all("details")) >= len(plots)
    for figure in page.all("figure"):
        assert figure.get("aria-labelledby", ids[0]) in ids
    regions = [each for each in page.all("div") if each.get("role") == "region"]
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions), "a keyboard can scroll them"
    assert all(image.get("alt") is not None for image in page.all("img"))


def test_the_leaderboard_has_every_trial_every_key_and_intervals(page: Page) -> None:
    assert "SOLVER." in page.text
    assert "BASE_LR" in page.text
    rows = re.findall(r"\d+\.\d\d to \d+\.\d\d", page.text)
    assert len(rows) >= 7, "of each trial with a score"
    for words in ("own values", "the best", "early stopping saved", "Can the short budget be trusted?"):
        assert words in page.text
    assert "trials 4, 6" in page.text
    assert "raytune-m2f tune --config my.yaml --space learning_rate --study study" in page.text


def test_what_is_not_there_is_said_plainly(page: Page) -> None:
    """The data set of the fake study is not registered, so no image can be shown."""
    assert "the test images cannot be shown here" in page.text
    assert "cannot be evaluated here" in page.text


def test_a_report_replaces_a_report_and_no_other_file(file: Path, tmp_path: Path) -> None:
    study = rm.Study(file.parent)
    assert is_ours(file)
    other = tmp_path / "mine.html"
    other.write_text("mine")
    with pytest.raises(InputError, match="written over"):
        study.report(other)
    with pytest.raises(InputError, match="directory"):
        study.report(tmp_path)
    with pytest.raises(InputError, match="--pictures: got 17"):
        study.report(tmp_path / "new.html", pictures=17)
    with pytest.raises(InputError, match="on this machine"):
        study.report("s3://bucket/report.html")
    assert other.read_text() == "mine"
    assert study.report(file, pictures=0, test_images=0) == file
    assert is_ours(file)


def test_a_study_without_a_score_has_a_report_too(tmp_path: Path) -> None:
    made = made_study(tmp_path, trials=2, failed=(0, 1))
    page = Page(rm.Study(made).report(pictures=2).read_text("utf-8"))
    assert "No trial has a score yet." in page.text
    assert "No trial has reported yet." in page.text


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study directory"):
        rm.Study(tmp_path).report()


def test_it_is_written_again_while_the_study_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = made_study(tmp_path, trials=2, failed=())
    pages: list[str] = []
    output = tmp_path / "report.html"
    drivers = iter(["process 7", "process 7", None])
    monkeypatch.setattr("raytune_m2f.study.directory.StudyDirectory.driver", lambda self: next(drivers))
    monkeypatch.setattr("raytune_m2f.api.reporting.time.sleep", lambda seconds: pages.append(output.read_text("utf-8")))
    rm.Study(made).report(output, pictures=0, watch=True)
    (during, again), after = pages, output.read_text("utf-8")
    assert "read this file again every 20 seconds" in during
    assert "it runs now (process 7)" in during
    assert "it runs now (process 7)" in again
    assert caplog.text.count("2 trials started") == 1, "a line where something has changed"
    assert "read this file again" not in after
