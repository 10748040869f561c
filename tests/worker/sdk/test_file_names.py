"""Names of files: nothing that comes from elsewhere decides where something is written (F1, F9)."""

from pathlib import Path

import pytest
from files_kit import WORKFLOW
from hypothesis import given
from hypothesis import strategies as st

from flowherd.errors import InvalidFile
from flowherd.sdk.file_names import default_upload_name, is_plain, local_name, upload_name
from flowherd.sdk.file_reference import FileReference

HOSTILE = [
    "../x", "/etc/x", "a/../../x", "..\\x", "a\\b", "nul\0byte", "n" * 300, "é" * 128, "CON", "con.txt", "nul .txt",
    "LPT1.tar.gz", "dot.", "blank ", ".", "..", "", "-rf", "line\nend", "\x1b[2J", "\x85", "\ud800", "a\u202egpj.exe",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_f1_a_hostile_name_becomes_a_neutral_local_one_and_is_refused_for_an_upload(name):
    local = local_name(name)
    assert is_plain(local)
    assert local.startswith("file")
    assert len(Path("private", local).parts) == 2
    with pytest.raises(InvalidFile):
        upload_name(name)


@pytest.mark.parametrize(
    "name", ["t.png", "Bericht März 2026.pdf", ".env", "a..b", "console.log", "data.tar.gz"]
)
def test_a_plain_name_stays_as_it_is(name):
    """Handlers choose readers by suffix."""
    assert local_name(name) == upload_name(name) == name


def test_a_neutral_name_keeps_a_harmless_suffix():
    assert [local_name(name) for name in ("../a.csv", "-x.tar.gz", "..\\a.p$g", "n" * 300 + ".csv")] == [
        "file.csv",
        "file.tar.gz",
        "file",
        "file.csv",
    ]


@given(st.text(max_size=400) | st.text(alphabet="./\\\0-: aC", max_size=20))
def test_f1_no_name_at_all_leads_out_of_the_folder(name):
    """Whatever a workflow hands over, the local name is one plain component that any file system takes."""
    for made in (local_name(name), default_upload_name(name, "id")):
        assert is_plain(made)
        assert Path("/private", made).parent == Path("/private")
        assert len(made.encode()) <= 255


def test_f9_iterations_of_a_loop_get_names_of_their_own_and_attempts_the_same():
    """protocol.md §9.1: the engine's key has no iteration, but each iteration has its own activity_id."""
    first, second = (default_upload_name("report.tar.gz", activity_id) for activity_id in ("a", "b"))
    assert first != second
    assert first == default_upload_name("report.tar.gz", "a")
    assert first.startswith("report-")
    assert first.endswith(".tar.gz")


def test_f9_a_long_name_is_cut_before_the_digest_is():
    one, two = (default_upload_name("é" * 120 + ".csv", activity_id) for activity_id in "ab")
    assert one != two
    assert max(len(one.encode()), len(two.encode())) <= 255


def test_a_reference_is_read_with_and_without_its_scheme_and_written_with_it():
    """protocol.md §9.4: the engine's built-in worker writes it without."""
    text = f"postgres://{WORKFLOW}/resize/a b%2Fc.png"
    assert str(FileReference.parse(text)) == text
    assert str(FileReference.parse(text.removeprefix("postgres://"))) == text
    assert FileReference.parse(text).route == (
        f"/api/v1/workflows/{WORKFLOW}/activities/resize/files/a%20b%252Fc.png"
    )


@pytest.mark.parametrize(
    "text",
    [
        None, 3, "", "postgres://", f"{WORKFLOW}/step", f"{WORKFLOW}/step/a/b", f"s3://{WORKFLOW}/step/a",
        f"/{WORKFLOW}/step/a", "../../../step/a", f"{WORKFLOW}/../a", f"{WORKFLOW}/step/..", f"{WORKFLOW}/step/.",
        f"{WORKFLOW}//a", f"{WORKFLOW}/step/", f"{WORKFLOW}/step/a\n", f"{WORKFLOW}/step/a\0", f"{WORKFLOW}/a\x85/a",
        f"{WORKFLOW}/step/\ud800", f"{WORKFLOW[:-1]}/step/a", f"{{{WORKFLOW}}}/step/a",
        f"{WORKFLOW}/step/" + "n" * 2000,
    ],
)  # fmt: skip
def test_f1_a_reference_that_would_lead_elsewhere_is_refused_without_being_shown(text):
    """It is a parameter: it may hold secrets (protocol.md R15), and control characters break the engine (§9.2)."""
    with pytest.raises(InvalidFile) as caught:
        FileReference.parse(text)
    assert (caught.value.code, caught.value.retryable) == ("INVALID_FILE", False)
    assert WORKFLOW not in str(caught.value)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_accepted_reference_stays_below_its_own_workflow(key, name):
    try:
        reference = FileReference.parse(f"{WORKFLOW}/{key}/{name}")
    except InvalidFile:
        return
    segments = reference.route.split("/")
    assert len(segments) == 9
    assert not {"", ".", ".."} & set(segments[1:])
    assert reference.route.isascii()
