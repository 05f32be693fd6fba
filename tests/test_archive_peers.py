"""Who may send and where results go, as people write it."""

from pathlib import Path

import pytest

from pipeline.archive.peers import (
    Address,
    Peers,
    checked_stow_url,
    checked_title,
    parse_address,
    parse_titles,
    read_peers,
)
from pipeline.records.errors import InputError


def reason_of(call: object, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.reason


def test_titles_let_in_from_anywhere() -> None:
    peers = parse_titles("CT1, MR 2")
    assert peers.allows("CT1", "10.0.0.5")
    assert peers.allows("MR 2", "::1")
    assert not peers.allows("ct1", "10.0.0.5")


def test_no_titles_let_all_in() -> None:
    assert Peers({}).allows("ANY", "10.0.0.5")


def test_peers_by_title_and_address(tmp_path: Path) -> None:
    path = tmp_path / "peers.yaml"
    path.write_text("CT1: 10.0.0.5\nMR: 10.1.0.0/16\nSIX: fe80::1\nANY:\n")
    peers = read_peers(path)
    cases = [("CT1", "10.0.0.5"), ("MR", "10.1.200.3"), ("SIX", "fe80::1"), ("ANY", "1.2.3.4"),
             ("CT1", "::ffff:10.0.0.5"), ("SIX", "fe80::1%eth0"),
             ("CT1", "10.0.0.6"), ("MR", "10.2.0.1"), ("SIX", "10.0.0.5"), ("OTHER", "10.0.0.5")]
    assert [peers.allows(*case) for case in cases] == [True] * 6 + [False] * 4


@pytest.mark.parametrize(("text", "reason"), [
    ("CT1: scanner.local\n", "odd-address"), ("CT1: 10.0.0.5\nCT1: 10.0.0.6\n", "duplicate-key"),
    ("", "no-peers"), ("- CT1\n", "invalid-yaml"), ("A_TITLE_OF_17_SIGN:\n", "odd-ae-title"),
])
def test_a_peers_file_that_says_nothing_clear(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "peers.yaml").write_text(text)
    assert reason_of(read_peers, tmp_path / "peers.yaml") == reason


@pytest.mark.parametrize(("text", "address"), [
    ("PACS@10.0.0.5:104", Address("PACS", "10.0.0.5", 104)),
    ("MY PACS@pacs.local:11112", Address("MY PACS", "pacs.local", 11112)),
    ("PACS@[::1]:104", Address("PACS", "::1", 104)),
])
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["10.0.0.5:104", "PACS@10.0.0.5", "PACS@host:0", "PACS@host:65536", "PACS@:104",
                                  "A@B@host:104"])
def test_what_is_no_address(text: str) -> None:
    assert reason_of(parse_address, text) == "odd-address"


@pytest.mark.parametrize("title", ["", "   ", "A\\B", "A\nB", "ÄE", "SEVENTEEN_SIGNS__"])
def test_what_is_no_title(title: str) -> None:
    assert reason_of(checked_title, title) == "odd-ae-title"


def test_the_last_slash_of_a_service_is_dropped() -> None:
    assert checked_stow_url("https://pacs:8042/dicom-web/") == "https://pacs:8042/dicom-web"


@pytest.mark.parametrize("url", ["ftp://pacs/x", "pacs:8042", "http:///x", "http://pacs/x?y=1", "http://pacs/a b"])
def test_what_is_no_service(url: str) -> None:
    assert reason_of(checked_stow_url, url) == "odd-address"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        checked_stow_url("http://me:secret@pacs:8042/dicom-web")
    assert "SEGLINE_STOW_AUTHORIZATION" in str(caught.value)
    assert "secret" not in str(caught.value)
