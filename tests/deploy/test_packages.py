"""The packages hold the code and nothing else, and their page reads well on an index; `.ci/run` installs them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowherd

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[2]
PACKAGES = ("worker/flowherd/", "supervisor/flowherd_supervisor/", "supervisor/flowherd_engine/")
NOT_CODE = ("worker/docs/", "worker/examples/", "supervisor/docs/", "tests/", "deploy/")
VERSION = flowherd.__version__


def build(target: str, source: Path, folder: Path) -> Path:
    """The package that the build back end makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    packed = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xzf", packed, "-C", folder], check=True)
    return folder / f"flowherd-{VERSION}"


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the sdist as pip builds it."""
    return zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """What an index shows."""
    return Parser().parsestr(wheel.read(f"flowherd-{VERSION}.dist-info/METADATA").decode())


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository, also those that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not listed.stdout:
        pytest.skip("not a git checkout")
    return {path for path in listed.stdout.splitlines() if (ROOT / path).exists()}


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(
    wheel: zipfile.ZipFile, tracked: set[str]
) -> None:
    """Templates, the page and the marks of typed packages too; no test, no example, no document."""
    code = {name for name in wheel.namelist() if not name.startswith(f"flowherd-{VERSION}.dist-info/")}
    assert code == {path.split("/", 1)[1] for path in tracked if path.startswith(PACKAGES)}
    licenses = [name for name in wheel.namelist() if "/licenses/" in name]
    assert len(licenses) == 2, "flowherd's own, and that of the charts on its page"


def test_the_sdist_has_documents_examples_and_tests(sdist: Path, tracked: set[str]) -> None:
    """Whoever packages flowherd anew finds all of it there."""
    there = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    wanted = {path for path in tracked if path.startswith((*PACKAGES, *NOT_CODE))}
    assert wanted - there == set()
    assert there - tracked == {"PKG-INFO"}


def test_the_page_of_an_index_has_no_link_into_a_folder_that_is_not_there(metadata: Message) -> None:
    """Pictures are raw files; other links lead to the files as the release has them."""
    page = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(links) > 5
    [home] = [
        url.split(", ")[1] for url in metadata.get_all("Project-URL", []) if url.startswith("Homepage, ")
    ]
    raw = home.replace("//github.com/", "//raw.githubusercontent.com/")
    ours = (f"{raw}/v{VERSION}/", f"{home}/blob/v{VERSION}/")
    for link in links:
        assert link.startswith(("#", "https://")), link
        if link.startswith(ours):
            path = link.removeprefix(ours[0]).removeprefix(ours[1]).split("#")[0]
            assert (ROOT / path).exists(), f"{link}: there is no such file"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page)
    assert all(picture.startswith(ours[0]) for picture in pictures)
    assert "$HFPR" not in page


def test_an_index_can_say_who_makes_it_for_which_pythons_and_where_it_lives(metadata: Message) -> None:
    """The version is that of the code; 3.11 is the oldest Python."""
    assert metadata["Version"] == VERSION
    assert metadata["Author"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    names = {url.split(", ")[0] for url in metadata.get_all("Project-URL", [])}
    assert names >= {"Homepage", "Documentation", "Changelog", "Issues"}
    pythons = [
        found[1]
        for line in metadata.get_all("Classifier", [])
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert metadata["Requires-Python"] == f">={pythons[0]}"
