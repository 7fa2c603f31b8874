"""Manifests agree with the files; lookup order; files that are not the registered ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from common.data import registry as registered
from common.data.registry import (
    Archive,
    DataSet,
    File,
    Layout,
    check,
    data_set,
    find,
    identity,
    leads_outside,
    registry,
    roots,
    verify,
)
from common.errors import InputError
from common.experiments.settings import validated

#: Files below the data root that were made from a set's own and are not part of it.
EXCEPTIONS = {"pollux": {"fitted_phi.csv", "fitted_theta.csv", "tuned_configs.csv"}}
BY_HAND = {
    "celeba",
    "flickr30k_images",
    "how2_full",
    "how2_recognised",
    "imagenet",
    "llama3_8b",
    "multi30k_features",
    "office_home",
}
TEXT = b"one\n"
SUM = hashlib.sha256(TEXT).hexdigest()
ZEROS = "0" * 64
HEAD = {"title": "A set", "home": "https://example.org", "licence": "MIT", "citation": "A. Author"}


def a_set(layouts: dict[str, Layout], get: str = "ask") -> DataSet:
    return DataSet(name="a_set", get=get, layouts=layouts, **HEAD)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root in which the set ``a_set`` of one file lies; it is the only one registered."""
    entry = a_set({"files": Layout(files={"sub/one.txt": File(sha256=SUM, bytes=len(TEXT))})})
    monkeypatch.setattr(registered, "registry", lambda: {"a_set": entry})
    (tmp_path / "a_set" / "sub").mkdir(parents=True)
    (tmp_path / "a_set" / "sub" / "one.txt").write_bytes(TEXT)
    return tmp_path


def test_every_file_of_every_manifest_verifies(data_root: Path) -> None:
    present = [name for name in registry() if (data_root / name).is_dir()]
    assert present
    for name in present:
        files = verify(name, data_root)
        assert {file.status for file in files} == {"ok"}, [x for x in files if x.status != "ok"]


def test_sizes_in_the_manifests_are_those_of_the_files(data_root: Path) -> None:
    for name, entry in registry().items():
        for path, file in next(iter(entry.layouts.values())).contents.items():
            if (data_root / name / path).exists():
                assert (data_root / name / path).stat().st_size == file.bytes, path


def test_every_file_of_every_folder_is_registered(data_root: Path) -> None:
    for folder in sorted(path for path in data_root.iterdir() if path.is_dir()):
        layouts = data_set(folder.name).layouts.values()
        known = {path for layout in layouts for path in layout.contents}
        here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert here - known - EXCEPTIONS.get(folder.name, set()) - {"README.md"} == set()


def test_a_set_that_can_be_downloaded_has_a_checksum_for_every_file() -> None:
    for name, entry in registry().items():
        for layout in entry.layouts.values():
            checksums = [file.checksum for file in layout.contents.values()]
            # Of what is put there by hand, CelebA alone has sums that others have published.
            assert all(checksums) == (name not in BY_HAND or name == "celeba")
            assert not (layout.has_home and name in BY_HAND)


def test_homes_on_github_name_a_commit() -> None:
    for entry in registry().values():
        for layout in entry.layouts.values():
            for url in filter(None, map(layout.url, layout.files)):
                if url.startswith("https://raw.githubusercontent.com/"):
                    commit = url.split("/")[5]
                    assert len(commit) == 40
                    assert int(commit, 16)


def test_urls_are_joined_with_the_base() -> None:
    layout = Layout(
        base="https://example.org/a/",
        files={
            "own/path": File(),
            "renamed": File(url="b/c"),
            "elsewhere": File(url="https://example.com/d"),
            "homeless": File(url=""),
        },
    )
    assert {path: layout.url(path) for path in layout.files} == {
        "own/path": "https://example.org/a/own/path",
        "renamed": "https://example.org/a/b/c",
        "elsewhere": "https://example.com/d",
        "homeless": None,
    }
    assert Layout(files={"f": File()}).url("f") is None


def test_an_unknown_name_gets_close_ones_and_the_list() -> None:
    with pytest.raises(InputError, match=r"'mnits': not registered; did you mean .*mnist.*known: "):
        data_set("mnits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": ""}, "key 'licence'"),
        ({"colour": "red"}, "unknown key 'colour'.*allowed: .*citation"),
        ({"home": "ftp://example.org"}, "key 'home'"),
        ({"layouts": {"files": {"files": {"../evil": {}}}}}, "must be relative, without"),
        ({"layouts": {"files": {"files": {"a": {"sha256": "12"}}}}}, "sha256"),
        ({"layouts": {"files": {}}}, "at least one file"),
        ({"get": ""}, "'get' must say"),
    ],
)
def test_a_manifest_that_does_not_conform_is_refused(
    change: dict[str, object], message: str
) -> None:
    good = {"name": "a_set", "get": "ask", "layouts": {"files": {"files": {"a": {}}}}, **HEAD}
    assert validated(DataSet, good, "a_set.yaml").layouts["files"].contents == {"a": File()}
    with pytest.raises(InputError, match=f"a_set.yaml: .*{message}"):
        validated(DataSet, good | change, "a_set.yaml")


def test_roots_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_DATA", "data")
    monkeypatch.setenv("REPRO_CACHE", "cache")
    assert roots(Path("given")) == [Path("given")]
    assert roots() == [Path("data"), Path("cache")]


def test_find_takes_the_first_root_that_has_the_set(
    one: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("REPRO_DATA", str(empty))
    monkeypatch.setenv("REPRO_CACHE", str(one))
    assert find("a_set") == one / "a_set"
    (empty / "a_set").mkdir()
    assert find("a_set") == empty / "a_set"
    with pytest.raises(InputError, match=r"'other' is in none of: .*python -m common.data fetch"):
        find("other")


def test_a_named_root_is_the_only_one_searched(
    one: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("REPRO_DATA", str(one))
    assert find("a_set", one) == one / "a_set"
    with pytest.raises(InputError, match=f"'a_set' is in none of: {empty};"):
        find("a_set", empty)


def test_an_identity_holds_the_checksums_of_the_files_read(one: Path) -> None:
    found = identity("a_set", ["sub/one.txt"], one)
    assert (found.name, found.real, found.source) == ("a_set", True, "registry")
    assert found.sha256 == {"sub/one.txt": SUM}


def test_an_identity_of_a_changed_file_is_refused_with_both_sums(one: Path) -> None:
    (one / "a_set" / "sub" / "one.txt").write_bytes(b"two\n")
    other = hashlib.sha256(b"two\n").hexdigest()
    with pytest.raises(InputError, match=f"one.txt: sha256 is {other}, the manifest has {SUM}"):
        identity("a_set", ["sub/one.txt"], one)


def test_an_identity_of_an_absent_or_unregistered_file_is_refused(one: Path) -> None:
    (one / "a_set" / "sub" / "one.txt").unlink()
    with pytest.raises(InputError, match=r"one.txt: no such file; .*fetch a_set"):
        identity("a_set", ["sub/one.txt"], one)
    with pytest.raises(InputError, match=r"'two.txt' is not in its manifest"):
        identity("a_set", ["two.txt"], one)


def test_a_file_is_ok_missing_wrong_or_without_checksum(tmp_path: Path) -> None:
    files = {
        "right": File(sha256=SUM),
        "by_md5": File(published="md5:" + hashlib.md5(TEXT, usedforsecurity=False).hexdigest()),
        "wrong": File(sha256=ZEROS),
        "unknown": File(),
        "absent": File(sha256=SUM),
    }
    for name in ("right", "by_md5", "wrong", "unknown"):
        (tmp_path / name).write_bytes(TEXT)
    found = {file.path: file for file in check(a_set({"files": Layout(files=files)}), tmp_path)}
    assert {path: file.status for path, file in found.items()} == {
        "right": "ok",
        "by_md5": "ok",
        "wrong": "wrong checksum",
        "unknown": "present, not checksummed",
        "absent": "missing",
    }
    assert found["wrong"].detail == f"sha256 is {SUM}, the manifest has {ZEROS}"
    assert {path for path, file in found.items() if not file.good} == {"wrong", "absent"}


def test_a_set_that_lies_nowhere_misses_every_file(one: Path, tmp_path: Path) -> None:
    assert [file.status for file in verify("a_set", tmp_path / "nowhere")] == ["missing"]


def test_either_layout_is_accepted(tmp_path: Path) -> None:
    archive = Archive(
        url="https://example.org/a.tar",
        sha256=ZEROS,
        bytes=1,
        unpack="tar",
        limit=1,
        files={"inside/one": File(sha256=SUM)},
    )
    entry = a_set(
        {
            "sheets": Layout(files={"sheet1": File(sha256=SUM), "sheet2": File(sha256=SUM)}),
            "official": Layout(archives=[archive]),
        }
    )
    assert [file.path for file in check(entry, tmp_path)] == ["sheet1", "sheet2"]
    (tmp_path / "sheet1").write_bytes(TEXT)
    assert [file.status for file in check(entry, tmp_path)] == ["ok", "missing"]
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "one").write_bytes(TEXT)
    assert [file.path for file in check(entry, tmp_path) if file.good] == ["inside/one"]
    (tmp_path / "sheet2").write_bytes(TEXT)
    assert [file.path for file in check(entry, tmp_path) if file.good] == ["sheet1", "sheet2"]


@pytest.mark.parametrize(
    ("path", "outside"),
    [
        ("a", False),
        ("a/b.txt", False),
        ("a..b", False),
        ("../a", True),
        ("a/../../b", True),
        ("/a", True),
        ("a\\..\\b", True),
        ("", True),
    ],
)
def test_which_paths_lead_outside(path: str, outside: bool) -> None:
    assert leads_outside(path) is outside
