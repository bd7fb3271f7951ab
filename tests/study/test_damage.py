"""Results that notice damage: every byte of every file is checked, and what cannot be read is not called damaged."""

from __future__ import annotations

import builtins
import errno
import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
from helpers.study_results import written

import llmsched as ls
from llmsched.errors import DamagedResultsError, StudyError
from llmsched.study import Study, failures, manifest, report, results, store, whole_files

STUDY = Study(
    workloads=[{"generator": "lmsys", "requests": 30}],
    policies=["hsf", "amin"],
    memories=[600, 3000],  # the smaller one fits some of the replications only
    metrics=["mean_latency"],
    replications=20,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory of results in several parts, some of failures."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.Rows, "compact", lambda self: None)
        for replications in (5, 12, 20):
            STUDY.replace(replications=replications).run(out, workers=1, extend=True)
    assert len(list((out / "results").iterdir())) >= 3
    assert len(list((out / "failures").iterdir())) >= 3
    return out


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def everything(out):
    """All that a directory says, as a plain value."""
    contents = report.read(out)
    return written(results(out)), written(failures(out)), store.count(out), contents.name


def test_no_flipped_bit_in_any_file_changes_what_is_read(out):
    before = everything(out)
    drawn = random.Random(0)
    for path in [p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "lock"]:
        raw = path.read_bytes()
        for _ in range(40 if path.suffix == ".parquet" else 150):
            spoilt, at = bytearray(raw), drawn.randrange(len(raw))
            spoilt[at] ^= 1 << drawn.randrange(8)
            path.write_bytes(spoilt)
            try:
                found, blamed = everything(out), str(path)
            except DamagedResultsError as damage:
                found, blamed = before, damage.path
            assert (found, blamed) == (before, str(path)), f"byte {at}"  # no good file is blamed
        path.write_bytes(raw)
    assert everything(out) == before


def test_a_copied_part_is_a_stranger_and_counts_for_nothing(out):
    part = min((out / "results").iterdir())
    shutil.copy(part, out / "results" / "part-00000077-00000077.parquet")
    for use in (lambda: results(out), lambda: STUDY.run(out), lambda: STUDY.run(out, repair=True)):
        with pytest.raises(StudyError, match=r"part-00000077-00000077\.parquet is not among the parts that manifest"):
            use()


def test_an_older_manifest_is_refused_and_hides_no_rows(whole, out):
    old = (out / "manifest.json").read_bytes()
    STUDY.replace(replications=24).run(out, extend=True)
    (out / "manifest.json").write_bytes(old)
    with pytest.raises(StudyError, match="manifest"):
        results(out)


def test_a_lost_part_is_simulated_again(whole, out):
    part = min((out / "results").iterdir())
    part.unlink()
    with pytest.raises(DamagedResultsError, match=r"manifest\.json lists it, and it is not there.*--repair"):
        results(out)
    with pytest.raises(DamagedResultsError):
        STUDY.run(out)
    assert STUDY.run(out, repair=True).damaged == (str(part),)
    assert written(results(out)) == written(results(whole))


@pytest.mark.parametrize("name", ["manifest.json", "study.json", "study.toml"])
def test_damaged_lists_are_mended_by_repair(whole, out, name):
    (out / name).write_bytes((out / name).read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(DamagedResultsError, match=f"{name} is damaged"):
        everything(out)
    if name != "study.toml":  # it is written anew by every run
        with pytest.raises(DamagedResultsError, match=f"{name} is damaged"):
            STUDY.run(out)
    status = STUDY.run(out, repair=True)
    assert (status.before == 0) == (name == "manifest.json")  # nothing else says which rows are good
    assert written(results(out)) == written(results(whole))
    assert written(failures(out)) == written(failures(whole))
    assert everything(out)


def test_repair_takes_no_other_study_where_study_json_is_damaged(out):
    (out / "study.json").write_text("{")
    with pytest.raises(StudyError, match="this is not the study that was last run"):
        STUDY.replace(seed=5).run(out, repair=True)


# Not damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_what_cannot_be_read_now_is_not_called_damaged_or_moved(whole, out, monkeypatch, number):
    good = {p: p.read_bytes() for p in out.rglob("*.parquet")}
    really = builtins.open

    def failing(name, *rest, **options):
        if str(name).endswith(".parquet"):
            raise OSError(number, "it fails", str(name))
        return really(name, *rest, **options)

    monkeypatch.setattr(manifest, "open", failing, raising=False)
    for repair in (False, True):
        with pytest.raises(StudyError, match=r"cannot be read .*not known to be damaged") as caught:
            STUDY.run(out, repair=repair)
        assert not isinstance(caught.value, DamagedResultsError)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in out.rglob("*.parquet")} == good
    assert not (out / "damaged").exists()
    assert STUDY.run(out).before == 80


@pytest.mark.parametrize("error", [MemoryError("malloc of size 64 failed"), OSError(errno.ENOMEM, "no memory")])
def test_a_lack_of_memory_while_reading_is_not_damage(out, monkeypatch, error):
    class Poor(pq.ParquetFile):
        def iter_batches(self, *args, **options):
            raise error

    monkeypatch.setattr(pq, "ParquetFile", Poor)
    with pytest.raises((MemoryError, StudyError)) as caught:
        STUDY.run(out, repair=True)
    assert not isinstance(caught.value, DamagedResultsError)
    assert not (out / "damaged").exists()


# Kills between two steps ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up."""


def killed_at(monkeypatch, step):
    """Let the process die at this call, from 0, of what changes the disk under a final name."""
    calls = iter(range(10**6))
    for module, name in ((store, "finish"), (whole_files, "finish"), (store.Path, "unlink"), (store.os, "replace")):
        really = getattr(module, name)

        def dying(*args, really=really, **options):
            if next(calls) == step:
                raise Killed
            return really(*args, **options)

        monkeypatch.setattr(module, name, dying)


@pytest.mark.parametrize("what", ["append", "compact", "clear"])
def test_killed_between_any_two_steps_no_row_is_lost_or_doubled(whole, tmp_path, monkeypatch, what):
    step = 0
    while True:
        out = shutil.copytree(whole, tmp_path / str(step))
        study = STUDY.replace(replications=24) if what == "append" else STUDY
        with monkeypatch.context() as patch:
            killed_at(patch, step)
            try:
                study.run(out, workers=1, extend=True, retry=what == "clear")
            except Killed:
                finished = False
            else:
                finished = True
        kept = len(results(out)), len(failures(out))
        assert kept[0] >= len(results(whole))
        if what != "clear":
            assert kept[1] >= len(failures(whole))
        study.run(out, extend=True)
        assert len(results(out)) + len(failures(out)) == study.replications * 4
        assert not list(out.glob("**/*.part"))
        keys = list(zip(*(results(out)[name].to_pylist() for name in ("policy", "memory", "replication")), strict=True))
        assert len(keys) == len(set(keys))
        if finished:
            break
        step += 1
    assert step > 5


# Who made it ----------------------------------------------------------------------------------------------------------


def remade(out, **other):
    """The directory as another version would have written it."""
    described = store.describe(out)
    whole_files.write_sealed(out / "study.json", {**described, **other})


@pytest.mark.parametrize(("key", "name"), [("llmsched", "llmsched"), ("numpy", "NumPy")])
def test_another_version_is_refused_or_recorded_part_by_part(whole, out, key, name):
    remade(out, **{key: "0.0.1"})
    with pytest.raises(StudyError, match=rf"was made by {name} 0\.0\.1, and this is .*--other-versions"):
        STUDY.run(out)
    found = manifest.Manifest.read(out)
    parts = {k: [part._replace(made_by=("an old one",)) for part in found.parts[k]] for k in manifest.KINDS}
    manifest.Manifest(found.study, parts).write(out)
    STUDY.replace(replications=21).run(out, extend=True, other_versions=True)
    now = manifest.Manifest.read(out).parts["results"]
    assert {maker for part in now for maker in part.made_by} == {
        "an old one",
        f"llmsched {ls.__version__}, NumPy {store.np.__version__}",
    }
    assert [run["llmsched"] for run in store.describe(out)["runs"]][-1] == ls.__version__


def test_the_manifest_is_plain_json_with_a_checksum(out):
    found = json.loads((out / "manifest.json").read_text())
    assert {"study", "results", "failures", "sha256"} == found.keys()
    part = found["results"][0]
    raw = (out / "results" / f"part-{part['first']:08d}-{part['last']:08d}.parquet").read_bytes()
    assert part["bytes"] == len(raw)
    assert part["rows"] == pq.read_metadata(out / "results" / min((out / "results").iterdir()).name).num_rows
