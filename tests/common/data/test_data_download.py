"""Downloads from a server on this machine: what is kept, what is refused, what is tried again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from common.data import registry
from common.data.download import RETRIES, download, fetch
from common.data.registry import Archive, DataSet, File, Layout
from common.data.svhn import svhn
from common.errors import InputError
from tests.common.data.example_colours import example_svhn

TEXT = b"weights\n" * 4000
OTHER = b"labels\n" * 100
NOISE = random.Random(0).randbytes(20_000)
Kind = Literal["tar", "zip"]
KINDS: tuple[Kind, ...] = ("tar", "zip")


@dataclass
class Home:
    """A web server: what it serves, how many replies it still breaks off, what was asked of it."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def home() -> Iterator[Home]:
    """A server on a free port of the loopback interface."""

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.asked.append(name)
            if name not in served.files:
                self.send_error(404)
                return
            body = served.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if served.breaks:
                served.breaks -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
    served = Home(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def a_set(layout: Layout, **more: Layout) -> DataSet:
    return DataSet(
        name="a_set",
        title="A set",
        home="https://example.org",
        licence="MIT",
        citation="A. Author",
        get="ask the author",
        layouts={"files": layout, **more},
    )


def two_files(home: Home) -> DataSet:
    """A set of two files, served as they should be."""
    home.files = {"sub/one": TEXT, "second": OTHER}
    files = {"sub/one": File(sha256=sha256(TEXT)), "two": File(sha256=sha256(OTHER), url="second")}
    return a_set(Layout(base=home.url, files=files))


def below(folder: Path) -> dict[str, bytes]:
    """Contents of every file below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def test_a_good_download_is_put_in_place(home: Home, tmp_path: Path) -> None:
    download(two_files(home), tmp_path / "root" / "a_set")
    assert below(tmp_path) == {"root/a_set/sub/one": TEXT, "root/a_set/two": OTHER}
    assert home.asked == ["sub/one", "second"]


def test_others_can_read_what_was_downloaded(home: Home, tmp_path: Path) -> None:
    download(two_files(home), tmp_path / "a_set")
    assert stat.S_IMODE((tmp_path / "a_set" / "two").stat().st_mode) == 0o644


def test_what_is_complete_is_not_downloaded_again(home: Home, tmp_path: Path) -> None:
    entry = two_files(home)
    (tmp_path / "a_set").mkdir()
    (tmp_path / "a_set" / "two").write_bytes(OTHER)
    before = (tmp_path / "a_set" / "two").stat()
    download(entry, tmp_path / "a_set")
    assert home.asked == ["sub/one"]
    after = (tmp_path / "a_set" / "two").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    download(entry, tmp_path / "a_set")
    assert home.asked == ["sub/one"]


def test_a_wrong_file_is_replaced_by_the_right_one(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a_set").mkdir()
    (tmp_path / "a_set" / "two").write_bytes(b"stale")
    download(two_files(home), tmp_path / "a_set")
    assert below(tmp_path / "a_set")["two"] == OTHER


def test_a_wrong_checksum_keeps_nothing_and_names_both_sums(home: Home, tmp_path: Path) -> None:
    entry = two_files(home)
    home.files["sub/one"] = b"tampered"
    with pytest.raises(InputError, match=r"sub/one.*does not match") as caught:
        download(entry, tmp_path / "a_set")
    assert sha256(TEXT) in str(caught.value)
    assert sha256(b"tampered") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_files_that_came_before(home: Home, tmp_path: Path) -> None:
    entry = two_files(home)
    del home.files["second"]
    with pytest.raises(InputError, match=r"'a_set': 404 .*/second; try later, or put it at .*two"):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {"a_set/sub/one": TEXT}
    home.files["second"] = OTHER
    home.asked.clear()
    download(entry, tmp_path / "a_set")
    assert home.asked == ["second"]


def test_a_broken_transfer_is_tried_again(home: Home, tmp_path: Path) -> None:
    entry = two_files(home)
    home.breaks = 2
    download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {"a_set/sub/one": TEXT, "a_set/two": OTHER}
    assert home.asked == ["sub/one"] * 3 + ["second"]


def test_a_transfer_that_stays_broken_keeps_nothing(home: Home, tmp_path: Path) -> None:
    entry = two_files(home)
    home.breaks = RETRIES + 1
    with pytest.raises(InputError, match=f"{home.url}sub/one: cannot be downloaded"):
        download(entry, tmp_path / "a_set")
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_home_is_named(home: Home, tmp_path: Path) -> None:
    nobody = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{nobody.server_port}/"
    nobody.server_close()
    entry = a_set(Layout(base=url, files={"one": File(sha256=sha256(TEXT))}))
    message = rf"'a_set': {url}one: .*ConnectionError.*by hand.*common.data verify a_set"
    with pytest.raises(InputError, match=message):
        download(entry, tmp_path / "a_set")


def test_a_root_that_cannot_be_written_is_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file", encoding="utf8")
    with pytest.raises(InputError, match=f"{tmp_path / 'root'}: cannot be written"):
        download(two_files(home), tmp_path / "root" / "a_set")
    assert home.asked == []


def test_files_without_a_home_are_asked_for_after_the_others(home: Home, tmp_path: Path) -> None:
    home.files = {"one": TEXT}
    files = {"one": File(sha256=sha256(TEXT)), "made": File(sha256=sha256(OTHER), url="")}
    entry = a_set(Layout(base=home.url, files=files))
    with pytest.raises(InputError, match="still lacks made: ask the author"):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {"a_set/one": TEXT}
    (tmp_path / "a_set" / "made").write_bytes(OTHER)
    download(entry, tmp_path / "a_set")


def test_a_set_for_the_hand_says_what_to_put_where(tmp_path: Path) -> None:
    entry = a_set(Layout(files={"one": File()}))
    with pytest.raises(InputError, match="'a_set' cannot be downloaded: ask the author"):
        download(entry, tmp_path / "a_set")
    with pytest.raises(InputError, match=r"'imagenet' cannot .*ILSVRC2012_img_train.tar"):
        fetch("imagenet", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'mnits': not registered; did you mean mnist"):
        fetch("mnits", tmp_path)


def test_fetch_puts_a_set_into_the_first_root(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = two_files(home)
    monkeypatch.setattr(registry, "registry", lambda: {"a_set": entry})
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "named"))
    assert fetch("a_set") == tmp_path / "named" / "a_set"
    assert fetch("a_set", tmp_path / "given") == tmp_path / "given" / "a_set"
    assert len(below(tmp_path)) == 4


def packed(
    kind: Kind, members: dict[str, bytes], link: str | None = None, kind_of_link: bytes = b""
) -> bytes:
    """An archive of ``members`` and, last, a link of that name to a file outside."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members.items():
                opened.writestr(name, content)
            if link:
                item = zipfile.ZipInfo(link)
                item.external_attr = (stat.S_IFLNK | 0o777) << 16
                opened.writestr(item, "../../outside")
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as opened_tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                opened_tar.addfile(info, io.BytesIO(content))
            if link:
                info = tarfile.TarInfo(link)
                info.type, info.linkname = kind_of_link or tarfile.SYMTYPE, "../../outside"
                opened_tar.addfile(info)
    return stream.getvalue()


def archived(
    home: Home, kind: Kind, content: bytes, files: dict[str, File] | None = None, limit: int = 10**6
) -> DataSet:
    """A set that comes as the archive ``content``."""
    home.files = {"packed": content}
    archive = Archive(
        url=home.url + "packed",
        sha256=sha256(content),
        bytes=len(content),
        unpack=kind,
        limit=limit,
        files=files or {"one": File(sha256=sha256(TEXT), url="top/one"), "top/two": File()},
    )
    return a_set(Layout(archives=[archive]))


GOOD = {"top/one": TEXT, "top/two": OTHER, "top/more": b"not registered"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_without_its_server_is_to_be_unpacked_by_hand(
    home: Home, tmp_path: Path, kind: Kind
) -> None:
    entry = archived(home, kind, packed(kind, GOOD))
    home.files.clear()
    with pytest.raises(InputError, match=rf"404 .*or unpack it in {tmp_path / 'a_set'} by hand"):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_registered_members_are_unpacked_and_no_others(
    home: Home, tmp_path: Path, kind: Kind
) -> None:
    entry = archived(home, kind, packed(kind, GOOD))
    download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {"a_set/one": TEXT, "a_set/top/two": OTHER}
    download(entry, tmp_path / "a_set")
    assert home.asked == ["packed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "/tmp/evil-of-a-test"])  # noqa: S108
def test_an_archive_that_leads_outside_is_refused(
    home: Home, tmp_path: Path, kind: Kind, name: str
) -> None:
    entry = archived(home, kind, packed(kind, {**GOOD, name: b"evil"}))
    with pytest.raises(InputError, match=f"entry '{name}' leads outside"):
        download(entry, tmp_path / "root" / "a_set")
    assert below(tmp_path) == {}
    assert not Path("/tmp/evil-of-a-test").exists()  # noqa: S108


@pytest.mark.parametrize(
    ("kind", "type_"), [("zip", b""), ("tar", tarfile.SYMTYPE), ("tar", tarfile.LNKTYPE)]
)
def test_an_archive_with_a_link_is_refused(
    home: Home, tmp_path: Path, kind: Kind, type_: bytes
) -> None:
    entry = archived(home, kind, packed(kind, GOOD, "top/link", type_))
    with pytest.raises(InputError, match=r"entry 'top/link' .*is a link"):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_unpacks_to_too_much_is_refused(
    home: Home, tmp_path: Path, kind: Kind
) -> None:
    size = len(TEXT) + len(OTHER)
    entry = archived(home, kind, packed(kind, GOOD), limit=size - 1)
    with pytest.raises(InputError, match=f"unpacks to {size} bytes, more than the {size - 1} "):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_lacks_a_file_or_holds_another_one_is_refused(
    home: Home, tmp_path: Path, kind: Kind
) -> None:
    content = packed(kind, GOOD)
    with pytest.raises(InputError, match="the archive lacks top/three"):
        download(archived(home, kind, content, {"top/three": File()}), tmp_path / "a_set")
    wrong = {"top/one": File(sha256=sha256(OTHER))}
    with pytest.raises(InputError, match=f"top/one: sha256 is {sha256(TEXT)}, the manifest has"):
        download(archived(home, kind, content, wrong), tmp_path / "a_set")
    assert below(tmp_path) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", gzip.compress(TEXT, mtime=0)[:-20]],
    ids=["nothing", "text", "cut off"],
)
def test_what_is_no_archive_is_refused(
    home: Home, tmp_path: Path, kind: Kind, content: bytes
) -> None:
    with pytest.raises(InputError, match=f"not a readable {kind} archive"):
        download(archived(home, kind, content or b" "), tmp_path / "a_set")
    assert below(tmp_path) == {}


def damaged(how: str) -> tuple[Kind, bytes]:
    """An archive whose directory can be read and whose contents cannot."""
    stream = io.BytesIO()
    if how in ("xz", "bz2"):
        with tarfile.open(fileobj=stream, mode=f"w:{how}") as tar:
            entry = tarfile.TarInfo("top/one")
            entry.size = len(NOISE)
            tar.addfile(entry, io.BytesIO(NOISE))
        content = bytearray(stream.getvalue())
        content[len(content) // 2 : len(content) // 2 + 8] = bytes(8)
        return "tar", bytes(content)
    methods = {"zip bzip2": zipfile.ZIP_BZIP2, "zip lzma": zipfile.ZIP_LZMA}
    with zipfile.ZipFile(stream, "w", methods.get(how, zipfile.ZIP_DEFLATED)) as archive:
        archive.writestr("top/one", NOISE)
    content = bytearray(stream.getvalue())
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    if how == "zip encrypted":
        content[local + 6] |= 1
        content[central + 8] |= 1
    elif how == "zip of an unknown method":
        content[local + 8] = content[central + 10] = 97
    else:
        content[len(NOISE) // 2 : len(NOISE) // 2 + 8] = bytes(8)
    return "zip", bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        *("bz2", "xz", "zip deflate", "zip bzip2", "zip lzma"),
        *("zip encrypted", "zip of an unknown method"),
    ],
)
def test_an_archive_with_unreadable_contents_is_refused(
    home: Home, tmp_path: Path, how: str
) -> None:
    kind, content = damaged(how)
    entry = archived(home, kind, content, {"top/one": File(sha256=sha256(NOISE))})
    with pytest.raises(InputError, match=f"not a readable {kind} archive"):
        download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {}


def test_the_layout_that_has_a_home_is_the_one_downloaded(home: Home, tmp_path: Path) -> None:
    official = archived(home, "tar", packed("tar", GOOD)).layouts["files"]
    entry = a_set(Layout(files={"sheet": File(sha256=sha256(OTHER))}), official=official)
    download(entry, tmp_path / "a_set")
    assert below(tmp_path) == {"a_set/one": TEXT, "a_set/top/two": OTHER}


def test_weights_of_bert_that_are_not_the_registered_ones_are_not_kept(
    home: Home, tmp_path: Path
) -> None:
    config = {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 30522,
    }
    published = (json.dumps(config, indent=2) + "\n").encode()
    home.files = {"config.json": published, "model.safetensors": TEXT, "vocab.txt": OTHER}
    registered = registry.data_set("bert_base_uncased")
    layout = registered.layouts["files"].model_copy(update={"base": home.url})
    entry = registered.model_copy(update={"layouts": {"files": layout}})
    with pytest.raises(InputError, match=r"model\.safetensors.*does not match"):
        download(entry, tmp_path / "bert")
    assert below(tmp_path) == {"bert/config.json": published}


def test_film_reviews_are_fetched_by_their_checksums(home: Home, tmp_path: Path) -> None:
    registered = registry.data_set("sst2")
    layout = registered.layouts["files"].model_copy(update={"base": home.url})
    entry = registered.model_copy(update={"layouts": {"files": layout}})
    home.files = dict.fromkeys(layout.files, TEXT)
    with pytest.raises(InputError, match=r"train\.tsv.*does not match"):
        download(entry, tmp_path / "sst2")
    assert below(tmp_path) == {}


def test_house_numbers_are_downloaded_and_read(home: Home, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    pixels = example_svhn(made, [10, 3])
    example_svhn(made, [5], part="test")
    registered = registry.data_set("svhn")
    layout = registered.layouts["files"]
    home.files = {name: (made / "svhn" / name).read_bytes() for name in layout.files}
    theirs = layout.model_copy(update={"base": home.url})
    with pytest.raises(InputError, match=r"train_32x32\.mat.*does not match"):
        download(
            registered.model_copy(update={"layouts": {"files": theirs}}), tmp_path / "root" / "svhn"
        )
    assert below(tmp_path / "root") == {}
    sums = {name: File(sha256=sha256(body)) for name, body in home.files.items()}
    ours = theirs.model_copy(update={"files": sums})
    download(registered.model_copy(update={"layouts": {"files": ours}}), tmp_path / "root" / "svhn")
    assert np.array_equal(svhn(True, tmp_path / "root").pixels, pixels)
    assert svhn(False, tmp_path / "root").labels.tolist() == [5]


def test_weights_of_gpt2_that_are_not_the_registered_ones_are_not_kept(
    home: Home, tmp_path: Path
) -> None:
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }
    published = json.dumps(config, indent=2).encode()
    home.files = {"config.json": published, "model.safetensors": TEXT}
    registered = registry.data_set("gpt2")
    layout = registered.layouts["files"].model_copy(update={"base": home.url})
    entry = registered.model_copy(update={"layouts": {"files": layout}})
    with pytest.raises(InputError, match=r"model\.safetensors.*does not match"):
        download(entry, tmp_path / "gpt2")
    assert below(tmp_path) == {"gpt2/config.json": published}


def test_gpt2s_byte_pairs_are_those_of_the_tokenizers() -> None:
    weights, tokenizers = (registry.data_set(name) for name in ("gpt2", "tokenizers"))
    own, known = (each.layouts["files"].files for each in (weights, tokenizers))
    assert own["vocab.json"].checksum == known["gpt2_vocab.json"].checksum
    assert own["merges.txt"].checksum == known["gpt2_merges.txt"].checksum


def test_another_archive_than_the_original_wikitext_is_refused(home: Home, tmp_path: Path) -> None:
    registered = registry.data_set("wikitext2_raw")
    (archive,) = registered.layouts["files"].archives
    assert sum(file.bytes or 0 for file in archive.files.values()) < archive.limit
    home.files = {"packed": packed("zip", {"wikitext-2-raw/wiki.train.raw": TEXT})}
    served = archive.model_copy(update={"url": f"{home.url}packed"})
    layout = registered.layouts["files"].model_copy(update={"archives": [served]})
    entry = registered.model_copy(update={"layouts": {"files": layout}})
    with pytest.raises(InputError, match="does not match"):
        download(entry, tmp_path / "wikitext2_raw")
    assert below(tmp_path) == {}
